"""Millions of scored pixels in little memory: counts by score for all, and coarser ones per case for the intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from medgen.evaluation.anomaly.detection import CODES, Counts, Values
from medgen.evaluation.intervals import DRAWS, fraction_interval

Codes = npt.NDArray[np.uint16]
Bools = npt.NDArray[np.bool_]

COARSE = 2  # bits that the counts of single cases drop: about 5 kB a case instead of 20
_BLOCK = 50  # draws computed at once


@dataclass
class PixelCounts:
    """Positive and negative pixels by the code of their score: of all images, and coarser of each case."""

    positives: Counts = field(default_factory=lambda: np.zeros(CODES))
    negatives: Counts = field(default_factory=lambda: np.zeros(CODES))
    _cases: dict[int, list[tuple[Codes, Values, Values]]] = field(default_factory=dict)

    def add(self, case: int, codes: Codes, positive: Bools) -> None:
        """Add one image: the codes of its pixels (H, W), and which of them are lesion (H, W)."""
        hit = np.bincount(codes[positive], minlength=CODES)
        missed = np.bincount(codes[~positive], minlength=CODES)
        self.positives += hit
        self.negatives += missed
        both = np.stack([hit, missed]).reshape(2, -1, 1 << COARSE).sum(-1)
        used = np.flatnonzero(both.any(axis=0))
        row = (used.astype(np.uint16), both[0, used].astype(np.float64), both[1, used].astype(np.float64))
        self._cases.setdefault(case, []).append(row)

    def joined(self, other: PixelCounts) -> PixelCounts:
        """The pixels of both."""
        cases = {
            case: self._cases.get(case, []) + other._cases.get(case, []) for case in {**self._cases, **other._cases}
        }
        return PixelCounts(self.positives + other.positives, self.negatives + other.negatives, cases)

    @property
    def cases(self) -> list[int]:
        """The cases that pixels were added from, in order."""
        return sorted(self._cases)

    def of_cases(self) -> tuple[Counts, Counts]:
        """Positives and negatives (cases, B) at the B coarse values that occur, rising."""
        rows = [(place, *part) for place, case in enumerate(self.cases) for part in self._cases[case]]
        used = np.unique(np.concatenate([codes for _, codes, _, _ in rows]))
        positives, negatives = np.zeros((2, len(self._cases), len(used)))
        for place, codes, hit, missed in rows:
            columns = np.searchsorted(used, codes)
            positives[place, columns] += hit
            negatives[place, columns] += missed
        return positives, negatives

    def bootstrap(
        self, statistic: Callable[[Counts, Counts], Values], *, seed: int = 0, draws: int = DRAWS
    ) -> dict[str, float] | None:
        """`statistic` of all pixels, with a fraction's interval from resampled cases; None where it is undefined.

        `statistic` maps counts (..., B) to (...). The value uses the fine counts, the interval the coarse ones.
        """
        if len(self._cases) < 2:
            return None
        value = float(statistic(self.positives, self.negatives))
        positives, negatives = self.of_cases()
        count = len(positives)
        rng = np.random.default_rng(seed)
        redrawn = []
        for start in range(0, draws, _BLOCK):
            drawn = rng.integers(count, size=(min(_BLOCK, draws - start), count))
            weights = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)
            redrawn.append(statistic(weights @ positives, weights @ negatives))
        spread = np.concatenate(redrawn)
        return fraction_interval(value, spread, int((positives.sum(1) > 0).sum()))
