"""A network that is being aligned, with the earlier weights that it is held against."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn

from medgen.nets.options import UNetConfig
from medgen.nets.unet import UNet


class Snapshot(nn.Module):
    """A copy of a network's trainable weights, which can take their place; it is not trained.

    Unlike the moving average of a training, it changes places by swapping storages, so that a loss can look at it
    between a forward pass and its gradient; the weights must not be sharded.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._live: list[Tensor] = [weight for weight in network.parameters() if weight.requires_grad]
        for index, weight in enumerate(self._live):
            self.register_buffer(f"copy_{index}", weight.detach().clone())

    @property
    def copies(self) -> list[Tensor]:
        """The copies, in the order of the network's trainable weights."""
        return list(self.buffers())

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move towards the network's weights: `decay` 0 copies them, 1 keeps the copy."""
        torch._foreach_lerp_(self.copies, self._live, 1 - decay)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the network the copied weights for good."""
        torch._foreach_copy_(self._live, self.copies)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the network the copied weights inside the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        """Swap storages, which copies nothing and leaves the weights usable for gradients once it is swapped back.

        Mixed precision keeps the weights that it has converted, by their identity and not by their values: it would go
        on with those from before.
        """
        for live, copied in zip(self._live, self.copies, strict=True):
            live.data, copied.data = copied.data, live.data
        torch.clear_autocast_cache()


class Policy(nn.Module):
    """The network `unet`; its weights at the start, for drawing and at the last good check; their moving average."""

    unet: UNet
    kept_at: Tensor
    """Updates after which that check was."""
    broken: Tensor
    """Whether a later check was bad."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet
        self.reference, self.old, self.average, self.kept = (Snapshot(unet) for _ in range(4))
        self.register_buffer("kept_at", torch.tensor(0))
        self.register_buffer("broken", torch.tensor(False))

    @property
    def config(self) -> UNetConfig:
        """The configuration of the UNet."""
        return self.unet.config

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: dropout would tell the policy from the reference where they are equal."""
        return super().train(False)

    def forward(self, *arguments: Tensor) -> Tensor:
        """Run the UNet."""
        output: Tensor = self.unet(*arguments)
        return output
