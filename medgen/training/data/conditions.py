"""The conditions that a network sees in training."""

from __future__ import annotations

import torch
from torch import Tensor

from medgen.models.condition import condition_of
from medgen.nets.condition import Condition
from medgen.training.data.step import Batch, Step


def seen_condition(batch: Batch, step: Step, dropout: float) -> Condition:
    """The condition of a batch, dropped for a share `dropout` of the samples so that the null condition is learned."""
    return condition_of(batch).dropped(present(step, dropout).to(batch["x"].device))


def present(step: Step, dropout: float) -> Tensor:
    """Which samples keep their condition, (B,) bool: drawn independently; in validation all do."""
    if not step.training:
        return torch.ones(step.count, dtype=torch.bool)
    draws = torch.rand(step.total, generator=step.generator("keep"))
    return step.own(draws >= dropout)
