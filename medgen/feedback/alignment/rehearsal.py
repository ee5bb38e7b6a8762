"""Real images that a model goes on learning from while it is aligned, so that it keeps drawing such images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medgen.artifacts.stored import StoredSet
from medgen.feedback.alignment.rated import RatedImages
from medgen.feedback.alignment.sources import AskedGroups, ConditionsOf, parts_of
from medgen.training.data.sampler import Sampler
from medgen.training.data.step import Batch

REAL = "real_"
"""Before the names of the arrays of real images, in a batch that holds others too."""


def training_slices(stored: StoredSet) -> list[int]:
    """The real slices of the training split; the others stay unseen, since they bound the alignment."""
    rows = [row for row in stored.cases if row.split == "train" and not row.synthetic]
    return [index for row in rows for index in range(row.start, row.start + row.count)]


class Rehearsed:
    """The batches of a source, and with each sample a real image: `real_image` (B, C, H, W), and its condition."""

    def __init__(self, source: AskedGroups | RatedImages, stored: StoredSet, of: ConditionsOf, seed: int) -> None:
        """`of` gives the conditions of the slices of `stored`, an image set with training images."""
        self._source, self._stored, self._of = source, stored, of
        slices = np.array(training_slices(stored), dtype=np.int64)
        self._sampler = Sampler(slices, seed, group=np.ones(len(slices), dtype=bool))

    def __len__(self) -> int:
        return len(self._source)

    def at(self, positions: Sequence[int]) -> Batch:
        """The samples at these positions of the training."""
        slices, intensity = self._sampler[positions].tolist(), self._stored.header.intensity
        assert intensity is not None
        images = torch.from_numpy(intensity.normalized(self._stored.read("image", slices)))
        real = {"image": images, **parts_of(self._of(slices))}
        return {**self._source.at(positions), **{REAL + name: part for name, part in real.items()}}

    def faulty(self, positions: Sequence[int]) -> str | None:
        """Name the first sample of the source, or real image, that is not finite."""
        if fault := self._source.faulty(positions):
            return fault
        for index in self._sampler[positions].tolist():
            if not np.isfinite(self._stored.read("image", [index])).all():
                row = next(row for row in self._stored.cases if row.start <= index < row.start + row.count)
                return f"case {row.id} of the reference holds image values that are not finite"
        return None
