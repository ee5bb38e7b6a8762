"""How well scores separate positives from negatives: AUROC, average precision and Dice, with ties handled.

All are computed from counts: positives and negatives (..., B) at B rising values of the score. One value per sample
is exact; for many pixels, few values need memory for these values only. Undefined figures are NaN.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]
Values = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CODES = 1 << 16
"""Number of values that `codes_of` tells apart."""
RESOLUTION = 2.0**-7
"""Relative distance of neighbouring values."""


def auroc(positive: Bools, scores: Values) -> float:
    """Share of pairs in which the positive has the higher score; equal scores count half (Mann and Whitney 1947)."""
    return float(auroc_of_counts(*_counted(positive, scores)))


def average_precision(positive: Bools, scores: Values) -> float:
    """Mean precision over the positives, at the scores that occur, highest first; no interpolation."""
    return float(average_precision_of_counts(*_counted(positive, scores)))


def auroc_of_counts(positives: Counts, negatives: Counts) -> Values:
    """AUROC (...) of counts (..., B)."""
    below = np.cumsum(negatives, axis=-1) - negatives
    pairs = (positives * (below + 0.5 * negatives)).sum(-1)
    return _ratio(pairs, positives.sum(-1) * negatives.sum(-1))


def average_precision_of_counts(positives: Counts, negatives: Counts) -> Values:
    """Average precision (...) of counts (..., B)."""
    hits, marked = _from_above(positives), _from_above(positives + negatives)
    precision = np.divide(hits, marked, out=np.zeros_like(hits), where=marked > 0)
    return _ratio((precision * positives).sum(-1), positives.sum(-1))


def dice_of_counts(positives: Counts, negatives: Counts) -> Values:
    """Dice (..., B) of marking everything from each value up: 2 TP / (2 TP + FP + FN)."""
    hits, marked = _from_above(positives), _from_above(positives + negatives)
    return _ratio(2.0 * hits, marked + positives.sum(-1, keepdims=True))


def codes_of(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Float32 -> integers in the same order: sign, exponent and 7 bits of the mantissa, the rest cut off."""
    positive_zero = np.ascontiguousarray(values, np.float32) + np.float32(0)  # -0.0 is not less than 0.0
    bits = positive_zero.view(np.uint32) >> np.uint32(16)
    negative = bits >= CODES // 2
    return np.where(negative, CODES - 1 - bits, bits + CODES // 2).astype(np.uint16)


def value_of(code: int) -> float:
    """The value of smallest magnitude with that code."""
    bits = code - CODES // 2 if code >= CODES // 2 else CODES - 1 - code
    return float(np.array([bits << 16], np.uint32).view(np.float32)[0])


def threshold_code(negatives: Counts, rate: float) -> int:
    """The lowest code from which on at most a share `rate` of the negatives (CODES,) is marked."""
    marked = _from_above(negatives)
    allowed = np.flatnonzero(marked <= rate * marked[0])
    return int(allowed[0]) if len(allowed) else CODES - 1


def _counted(positive: Bools, scores: Values) -> tuple[Counts, Counts]:
    """Positives and negatives at each score that occurs."""
    _, place = np.unique(scores, return_inverse=True)
    count = int(place.max(initial=-1)) + 1
    hit = np.bincount(place, positive, count).astype(np.float64)
    return hit, np.bincount(place, minlength=count) - hit


def _from_above(counts: Counts) -> Counts:
    """Sums of each value and all above it (..., B)."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def _ratio(part: Values, whole: Values) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(Values, np.asarray(part / whole))
