"""From gradients to weight updates: clipping, the loss scale that float16 needs, and skipped steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from medgen.training.loop.distributed import local, whole
from medgen.training.loop.options import LoopOptions

LARGEST = 2.0**16
"""Factor that a loss scale begins with."""
GROWTH_STEPS = 2000
"""Steps without overflow after which it is doubled."""


class LossScale:
    """Dynamic factor that lifts gradients above float16's smallest numbers (Micikevicius et al. 2018, 3.2).

    It is halved when a gradient overflows, and doubled after `GROWTH_STEPS` steps in which none did. It stays on
    the device, so that nothing waits for a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.factor = torch.tensor(LARGEST, device=device)
        self.passed = torch.tensor(0.0, device=device)

    def update(self, overflown: Tensor) -> None:
        """Adapt to whether a gradient was not finite, a scalar of 0 or 1."""
        self.passed = (self.passed + 1) * (1 - overflown)
        grown = self.passed == GROWTH_STEPS
        self.factor = torch.where(overflown > 0, self.factor / 2, torch.where(grown, self.factor * 2, self.factor))
        self.passed = torch.where(grown, 0.0, self.passed)

    def state(self) -> dict[str, Tensor]:
        """What a resumed training needs of it."""
        return {"loss_scale.factor": self.factor, "loss_scale.passed": self.passed}

    def load(self, packed: Mapping[str, Tensor]) -> None:
        """Restore the state; where there is none (the training was in another precision), begin anew."""
        self.factor = packed.get("loss_scale.factor", self.factor).to(self.factor.device)
        self.passed = packed.get("loss_scale.passed", self.passed).to(self.passed.device)


class Optimizers:
    """An optimizer for each network, the learner's model first; a step updates all networks or none."""

    def __init__(
        self, networks: Sequence[nn.Module], options: LoopOptions, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.networks = list(networks)
        self.each = [_optimizer(network, options, device) for network in networks]
        self.scale = LossScale(device) if dtype == torch.float16 else None
        self._clip = options.clip or math.inf

    def clear(self) -> None:
        """Forget all gradients."""
        for optimizer in self.each:
            optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        (loss * self.scale.factor if self.scale else loss).backward()  # type: ignore[no-untyped-call]

    def step(self, rate: float) -> dict[str, Tensor]:
        """Clip the model's gradient and update all weights at this learning rate; returns scalar figures to watch.

        If a gradient of any network is not finite, the step is left out: no weight and no moment changes. The device
        sees to that by itself, so that a GPU is not waited for.
        """
        figures = {}
        if self.scale:
            figures["loss_scale"] = self.scale.factor
            torch._foreach_mul_(self._gradients(), 1 / self.scale.factor)
        limits = [self._clip] + [math.inf] * (len(self.networks) - 1)
        norms = [
            whole(nn.utils.clip_grad_norm_(network.parameters(), limit))
            for network, limit in zip(self.networks, limits, strict=True)
        ]
        overflown = 1 - torch.isfinite(torch.stack(norms)).all().float()
        for optimizer in self.each:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.found_inf = overflown  # type: ignore[attr-defined]  # where fused optimizers look for it
            optimizer.step()
        if self.scale:
            self.scale.update(overflown)
        return {**figures, "gradient_norm": norms[0], "left_out": overflown}

    def _gradients(self) -> list[Tensor]:
        weights = (weight for network in self.networks for weight in network.parameters())
        return [local(weight.grad) for weight in weights if weight.grad is not None]


def _optimizer(network: nn.Module, options: LoopOptions, device: torch.device) -> torch.optim.Optimizer:
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(
        weights,
        lr=options.learning_rate,
        betas=options.betas,
        weight_decay=options.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
