"""The conditions that a network sees in training."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from medgen.models.condition import condition_of
from medgen.nets.condition import Condition
from medgen.nets.text.modality import UNSAID
from medgen.training.data.step import Batch, Step


def seen_condition(batch: Batch, step: Step, dropout: float) -> Condition:
    """The condition of a batch, dropped for a share `dropout` of the samples so that the null condition is learned.

    The modality alone is left unsaid for another such share, so that a prompt can do without it.
    """
    condition = condition_of(batch)
    if condition.modality is not None:
        said = present(step, dropout, "said").to(condition.modality.device)
        condition = replace(condition, modality=condition.modality.where(said, UNSAID))
    return condition.dropped(present(step, dropout).to(batch["x"].device))


def present(step: Step, dropout: float, name: str = "keep") -> Tensor:
    """Which samples keep their condition, (B,) bool: drawn independently; in validation all do."""
    if not step.training:
        return torch.ones(step.count, dtype=torch.bool)
    draws = torch.rand(step.total, generator=step.generator(name))
    return step.own(draws >= dropout)
