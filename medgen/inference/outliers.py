"""Cases whose latents are unlike the others: wrong anatomy, wrong window, or a VAE that fails on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medgen.artifacts.latent_space import LatentSpace
from medgen.artifacts.schema import Array

FEWEST = 20
"""Cases below which the spread is too uncertain to call any case an outlier."""
GAUSSIAN = 1.4826
"""Standard deviation of a Gaussian / its median absolute deviation (Rousseeuw & Croux 1993)."""
MEASURES = ("mean", "standard deviation", "largest value")


class Summary(NamedTuple):
    """A case's scaled latents in three numbers, those of `MEASURES`."""

    case: str
    values: tuple[float, float, float]


class Outlier(NamedTuple):
    """A case, the measure in which it stands out most, its value there, and by how many robust deviations."""

    case: str
    measure: str
    value: float
    deviations: float

    def warning(self) -> str:
        """The outlier in one sentence, with what to do."""
        return (
            f"case {self.case} is an outlier: the {self.measure} of its latents, {self.value:.3g}, lies "
            f"{self.deviations:.0f} robust deviations from the median; look at it before training on it"
        )


def summarize(case: str, latents: Array, space: LatentSpace) -> Summary:
    """The summary of unscaled latents (D, c, h, w)."""
    scaled = space.seen(latents.astype(np.float64))
    return Summary(case, (float(scaled.mean()), float(scaled.std()), float(np.abs(scaled).max())))


def find_outliers(summaries: Sequence[Summary], threshold: float) -> list[Outlier]:
    """Cases more than `threshold` robust deviations from the median in any measure, the farthest first.

    A robust deviation is 1.4826 median absolute deviations. None for fewer than `FEWEST` cases, or a threshold of 0.
    """
    if len(summaries) < FEWEST or threshold == 0:
        return []
    values = np.array([summary.values for summary in summaries])  # (N, 3)
    median = np.median(values, axis=0)
    # If more than half are equal, the deviation would be 0 and everything else infinitely far.
    spread = np.maximum(GAUSSIAN * np.median(np.abs(values - median), axis=0), 1e-3)
    deviations = np.abs(values - median) / spread
    found = []
    for row in np.flatnonzero(deviations.max(axis=1) > threshold).tolist():
        worst = int(deviations[row].argmax())
        found.append(
            Outlier(summaries[row].case, MEASURES[worst], float(values[row, worst]), float(deviations[row, worst]))
        )
    return sorted(found, key=lambda outlier: -outlier.deviations)


def overall(mean: Sequence[float], std: Sequence[float]) -> tuple[float, float]:
    """Overall mean and standard deviation from those of each channel; 0 and 0 if there are none."""
    if not mean:
        return 0.0, 0.0
    centre = float(np.mean(mean))
    return centre, float(np.sqrt(np.mean(np.square(std) + np.square(mean)) - centre**2))
