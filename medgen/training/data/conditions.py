"""What a network in training is told of the samples that it sees."""

from __future__ import annotations

import torch
from torch import Tensor

from medgen.models.condition import condition_of
from medgen.nets.condition import Condition
from medgen.training.data.step import Batch, Step


def seen_condition(batch: Batch, step: Step, dropout: float) -> Condition:
    """The condition of a batch, left out for a share `dropout` of the samples, by which the network learns the null."""
    return condition_of(batch).dropped(present(step, dropout).to(batch["x"].device))


def present(step: Step, dropout: float) -> Tensor:
    """Which samples see their condition, (B,) bool: drawn for each on its own; in validation all."""
    if not step.training:
        return torch.ones(step.count, dtype=torch.bool)
    draws = torch.rand(step.total, generator=step.generator("keep"))
    return step.own(draws >= dropout)
