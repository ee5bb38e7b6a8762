"""The conditions that the policy step draws images for, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from medgen.nets.condition import NOTHING, Condition
from medgen.training.data.sampler import Sampler
from medgen.training.data.step import Batch

ConditionsOf = Callable[[Sequence[int]], Condition]
"""The conditions of these numbers, in rows."""


def parts_of(condition: Condition) -> Batch:
    """The tensors of a condition by name."""
    named = {field.name: getattr(condition, field.name) for field in fields(condition)}
    return {name: part for name, part in named.items() if part is not None}


def condition_in(batch: Batch) -> Condition:
    """The inverse of `parts_of`, in a batch that may hold more."""
    return Condition(**{field.name: batch[field.name] for field in fields(Condition) if field.name in batch})


@dataclass(frozen=True)
class Asked:
    """Conditions that may be asked of the model: their numbers; `of` says what they are."""

    numbers: Sequence[int]
    of: ConditionsOf = lambda numbers: NOTHING

    def spread(self, count: int) -> list[int]:
        """Numbers of `count` conditions, evenly spread over all of them, or in turn if there are fewer."""
        total = len(self.numbers)
        if count >= total:
            return [self.numbers[index % total] for index in range(count)]
        return [self.numbers[index * total // count] for index in range(count)]


class AskedGroups:
    """Batches of conditions, each repeated for a group of images; the learner draws the images."""

    def __init__(self, asked: Asked, group: int, seed: int) -> None:
        self.asked, self._group = asked, group
        self._sampler = Sampler(np.array(asked.numbers), seed, group=np.ones(len(asked.numbers), dtype=bool))

    def __len__(self) -> int:
        return len(self.asked.numbers)

    def at(self, positions: Sequence[int]) -> Batch:
        """The conditions at these positions, in parts, and their numbers: `asked` (B,)."""
        numbers = self._numbers(positions)
        return {**parts_of(self.asked.of(numbers)), "asked": torch.tensor(numbers)}

    def faulty(self, positions: Sequence[int]) -> str | None:
        """Name the first condition that is not finite."""
        for number in dict.fromkeys(self._numbers(positions)):
            for name, part in parts_of(self.asked.of([number])).items():
                if part.is_floating_point() and not torch.isfinite(part).all():
                    return f"condition {number} has a {name} that is not finite"
        return None

    def _numbers(self, positions: Sequence[int]) -> list[int]:
        groups = [position // self._group for position in positions]
        return [int(number) for number in self._sampler[groups]]
