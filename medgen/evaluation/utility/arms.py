"""The arms of a trial: the pairs a segmenter is trained on, with equal numbers of steps and equal augmentation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from medgen.evaluation.segmentation.pairs import Pairs
from medgen.evaluation.segmentation.segmenting import Draw

Rows = npt.NDArray[np.int64]

REAL, MIXED, FIRST, COPIES = "real", "mixed", "synthetic_first", "copies"
ARMS = {
    MIXED: "real and synthetic, mixed",
    FIRST: "synthetic first, then real",
    COPIES: "real and copies of them, mixed",
    REAL: "real pairs alone",
}
NOISE = 0.02
"""Standard deviation of what is added to copies, of a range of 2: they are as near as memorised images are."""


@dataclass(frozen=True)
class Pool:
    """All pairs that any arm draws from, concatenated: real ones, synthetic ones, copies of real ones."""

    pairs: Pairs
    real: int
    synthetic: int

    def draw(self, arm: str, steps: int, size: int) -> Draw:
        """The batches of an arm; all arms draw the same real pairs at the same positions."""
        starts = {REAL: 0, MIXED: self.real, FIRST: self.real, COPIES: self.real + self.synthetic}

        def rows(step: int, random: np.random.Generator) -> Rows:
            real = random.integers(self.real, size=size)
            others = starts[arm] + random.integers(self.synthetic, size=size)
            if arm == REAL:
                return real
            if arm == FIRST:
                return others if step < steps // 2 else real
            return np.where(np.arange(size) % 2 == 0, others, real)

        return rows


def pool(real: Pairs, synthetic: Pairs, seed: int) -> Pool:
    """Pool both, and as many near copies of real pairs as there are synthetic pairs."""
    random = np.random.default_rng(seed)
    copied = real[random.integers(len(real), size=len(synthetic))]
    noise = torch.from_numpy(random.normal(0, NOISE, tuple(copied.images.shape))).float()
    copies = replace(copied, images=(copied.images + noise).clamp(-1, 1))
    parts = (real, synthetic, copies)
    pairs = Pairs(
        torch.cat([one.images for one in parts]),
        torch.cat([one.labels for one in parts]),
        np.concatenate([one.cases for one in parts]),
        np.concatenate([one.slices for one in parts]),
        tuple(key for one in parts for key in one.keys),
        np.concatenate([one.pixels for one in parts]),
        None,
    )
    return Pool(pairs, len(real), len(synthetic))
