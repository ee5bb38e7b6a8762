"""Moving average of weights, which samples better than the weights themselves (Polyak & Juditsky 1992)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def rising(decay: float, step: int) -> float:
    """The decay at `step` (from 0): (1 + step) / (10 + step) up to `decay`."""
    return min(decay, (1 + step) / (10 + step))


class MovingAverage:
    """The average of a model's trainable weights; its decay is `rising`.

    It changes places with them by copying, not by swapping storages as a policy's snapshot does: FSDP gathers sharded
    weights from views that it took of them at the start, and a swap would not reach these.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        self._live: list[Tensor] = [weight for weight in model.parameters() if weight.requires_grad]
        self.average = [weight.detach().clone() for weight in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after `step` (from 0)."""
        torch._foreach_lerp_(self.average, self._live, 1 - rising(self.decay, step))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the average weights inside the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state(self) -> dict[str, Tensor]:
        """The average by the names of the weights."""
        return dict(zip(self.names, self.average, strict=True))

    @torch.no_grad()
    def _exchange(self) -> None:
        for live, average in zip(self._live, self.average, strict=True):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)
