"""Images that experts have rated, as batches for the policy step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medgen.artifacts.stored import StoredSet
from medgen.diffusion.alignment import advantages
from medgen.errors import DataError
from medgen.feedback.alignment.sources import ConditionsOf, parts_of
from medgen.training.data.sampler import Sampler
from medgen.training.data.step import Batch

Place = tuple[int, int]
"""Number of a set, and of a slice in it."""


@dataclass(frozen=True)
class Rated:
    """A set whose cases have been rated; `of` gives the conditions of its slices."""

    stored: StoredSet
    scores: Mapping[str, float]
    """By id of the case; only differences between cases of one condition count."""
    of: ConditionsOf


class RatedImages:
    """Rated slices in batches: `image` (B, C, H, W) in [-1, 1], `advantage` (B,), and the parts of their conditions.

    Each image counts against the others of its condition. Conditions with one rated image, or whose images were all
    rated alike, are left out; DataError if no other is left. With `paired`, rows are pairs, the better image first.
    """

    def __init__(
        self, rated: Sequence[Rated], seed: int, *, paired: bool, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self._rated = rated
        places, scores, groups = self._groups()
        self._places: list[Place] = []
        self._advantage: list[float] = []
        pairs: list[tuple[int, int]] = []
        for members in groups:
            found = advantages(torch.tensor([scores[i] for i in members], dtype=torch.float64), len(members)).tolist()
            first = len(self._places)
            self._places += [places[i] for i in members]
            self._advantage += found
            order = range(first, len(self._places))
            pairs += [(a, b) for a in order for b in order if self._advantage[a] > self._advantage[b]]
        if left_out := len(places) - len(self._places):
            say(f"{left_out} of {len(places)} rated images are left out: none of their condition is rated otherwise")
        if not pairs:
            raise DataError(
                "no two images of one condition are rated differently, so that there is nothing to learn; generate "
                "several images of each condition and rate them"
            )
        items = np.array(pairs if paired else range(len(self._places)), dtype=np.int64)
        self._rows = items.reshape(len(items), -1)
        self._sampler = Sampler(np.arange(len(items)), seed, group=np.ones(len(items), dtype=bool))

    def __len__(self) -> int:
        return len(self._places)

    def at(self, positions: Sequence[int]) -> Batch:
        """The images at these positions."""
        numbers = self._numbers(positions)
        images, conditions = [], []
        for number in numbers:
            of_set, index = self._places[number]
            rated = self._rated[of_set]
            intensity = rated.stored.header.intensity
            assert intensity is not None
            images.append(torch.from_numpy(intensity.normalized(rated.stored.read("image", [index]))))
            conditions.append(parts_of(rated.of([index])))
        paired = self._rows.shape[1] == 2
        advantage = [self._advantage[number] for number in numbers]
        if paired:
            advantage = [1.0 if position % 2 == 0 else -1.0 for position in positions]
        batch = {name: torch.cat([one[name] for one in conditions]) for name in conditions[0]}
        return {**batch, "image": torch.cat(images), "advantage": torch.tensor(advantage)}

    def faulty(self, positions: Sequence[int]) -> str | None:
        """Name the first image among these that is not finite."""
        for number in self._numbers(positions):
            of_set, index = self._places[number]
            stored = self._rated[of_set].stored
            if not np.isfinite(stored.read("image", [index])).all():
                row = next(row for row in stored.cases if row.start <= index < row.start + row.count)
                return f"case {row.id} holds image values that are not finite"
        return None

    def _numbers(self, positions: Sequence[int]) -> list[int]:
        """Numbers of the images at these positions; a pair takes two in a row."""
        width = self._rows.shape[1]
        rows = self._sampler[[position // width for position in positions]]
        return [int(self._rows[row, position % width]) for row, position in zip(rows, positions, strict=True)]

    def _groups(self) -> tuple[list[Place], list[float], list[list[int]]]:
        """All rated slices, their scores, and those of them that can be compared, by condition."""
        places: list[Place] = []
        scores: list[float] = []
        alike: dict[bytes, list[int]] = {}
        for number, rated in enumerate(self._rated):
            for row in rated.stored.cases:
                if row.id not in rated.scores:
                    continue
                for index in range(row.start, row.start + row.count):
                    parts = parts_of(rated.of([index]))
                    key = b"".join(name.encode() + parts[name].numpy().tobytes() for name in sorted(parts))
                    alike.setdefault(key, []).append(len(places))
                    places.append((number, index))
                    scores.append(rated.scores[row.id])
        unlike = [members for members in alike.values() if len({scores[i] for i in members}) > 1]
        return places, scores, unlike
