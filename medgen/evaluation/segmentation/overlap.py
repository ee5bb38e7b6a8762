"""How well found masks agree with true ones: Dice, IoU and the distance of their boundaries, class by class.

An image whose true mask lacks a class is a negative of that class. Empty against empty is a Dice of 1, but says
nothing about outlines. So negatives are counted separately, by how many of them the class was found in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.evaluation.intervals import mean_interval, share_interval
from medgen.evaluation.segmentation.pairs import Pairs

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

OVERALL = "overall"
MEASURES = ("dice", "iou", "boundary_distance")


@dataclass(frozen=True)
class Agreement:
    """Scores of N images and K classes without the background: NaN where the true mask lacks the class."""

    dice: Values
    """(N, K)."""
    iou: Values
    """(N, K)."""
    boundary_distance: Values
    """(N, K), in mm or pixels; NaN too where nothing was found."""
    false_positive: Values
    """(N, K) whether the class was found, of negatives; NaN where the true mask has the class."""
    cases: Rows
    """(N,)."""

    def overall(self, measure: str) -> Values:
        """(N,) the mean over the classes of each image; for false positives, whether there is any."""
        values: Values = getattr(self, measure)
        known = np.isfinite(values)
        if measure == "false_positive":  # an image is a negative where it has no class at all
            return np.where(known.all(axis=1), np.nan_to_num(values).max(axis=1), np.nan)
        return np.where(known.any(axis=1), np.nan_to_num(values).sum(axis=1) / np.maximum(known.sum(axis=1), 1), np.nan)

    def of(self, measure: str, place: int | None) -> Values:
        """(N,) of one class, None: overall."""
        if place is None:
            return self.overall(measure)
        values: Values = getattr(self, measure)
        return values[:, place]


def agreement(found: Labels, true: Labels, classes: int, pixels: Values, cases: Rows) -> Agreement:
    """Compare label maps (N, H, W) of `classes` values; `pixels` (N, 2) are heights and widths of a pixel."""
    shape = (len(true), classes - 1)
    dice, iou, distance, false_positive = (np.full(shape, np.nan) for _ in range(4))
    for row, (ours, theirs) in enumerate(zip(found, true, strict=True)):
        for value in range(1, classes):
            a, b, at = ours == value, theirs == value, (row, value - 1)
            if not b.any():
                false_positive[at] = float(a.any())
                continue
            dice[at], iou[at] = overlap(a, b)
            if a.any():
                distance[at] = boundary_distance(a, b, pixels[row])
    return Agreement(dice, iou, distance, false_positive, cases)


def agreement_of(found: Labels, pairs: Pairs, classes: int, *, in_mm: bool) -> Agreement:
    """Compare what was found in the images of pairs with their masks; distances in mm or in stored pixels."""
    return agreement(found, pairs.labels.numpy(), classes, pixels_of(pairs, in_mm=in_mm), pairs.cases)


def pixels_of(pairs: Pairs, *, in_mm: bool) -> Values:
    """(N, 2) height and width of a pixel, in mm or in stored pixels."""
    return pairs.pixels * pairs.spacing if in_mm and pairs.spacing is not None else pairs.pixels


def overlap(a: Mask, b: Mask) -> tuple[float, float]:
    """Dice and IoU of two masks; both 1 where both are empty."""
    both, sizes = int((a & b).sum()), int(a.sum()) + int(b.sum())
    return (2 * both / sizes, both / (sizes - both)) if sizes else (1.0, 1.0)


def boundary_distance(a: Mask, b: Mask, pixel: Values | tuple[float, float] = (1.0, 1.0)) -> float:
    """Mean distance of each boundary's pixels to the other boundary, both ways; neither mask may be empty.

    `pixel` is its height and width. The average symmetric surface distance (Heimann et al. 2009), in 2-D.
    """
    from scipy.ndimage import distance_transform_edt

    edges = boundary(a), boundary(b)
    spacing = tuple(float(side) for side in pixel)
    ways = [distance_transform_edt(~other, sampling=spacing)[own] for own, other in (edges, edges[::-1])]
    return float(np.concatenate(ways).mean())


def boundary(mask: Mask) -> Mask:
    """Pixels of the mask that share a side with one outside it; beyond the image counts as outside."""
    from scipy.ndimage import binary_erosion

    inner: Mask = binary_erosion(mask)
    return mask & ~inner


def summary(found: Agreement, names: Sequence[str], seed: int) -> dict[str, Any]:
    """Means with intervals by case, overall and by class; `names` are those of all values, the background first.

    Overall is the mean over the classes that an image has; negatives are images without any.
    """
    return {
        "images": len(found.cases),
        OVERALL: _summary(found, None, seed),
        "classes": {name: _summary(found, place, seed) for place, name in enumerate(names[1:])},
    }


def _summary(found: Agreement, place: int | None, seed: int) -> dict[str, Any]:
    positive = np.isfinite(found.of("dice", place))
    negatives = found.of("false_positive", place)
    negative = np.isfinite(negatives)
    missed = positive & ~np.isfinite(found.of("boundary_distance", place))
    limits = {"dice": (0.0, 1.0), "iou": (0.0, 1.0), "boundary_distance": (0.0, np.inf)}
    return {
        "positives": int(positive.sum()),
        **{name: mean_of(found.of(name, place), found.cases, limits[name], seed) for name in MEASURES},
        "missed": int(missed.sum()),
        "negatives": int(negative.sum()),
        "false_positive_rate": share_interval(negatives[negative] > 0, found.cases[negative]),
    }


def mean_of(values: Values, cases: Rows, within: tuple[float, float], seed: int) -> dict[str, float | None] | None:
    """The mean of values that are not NaN, with its interval by case (no ends for one case); None if all are NaN."""
    known = np.isfinite(values)
    if not known.any():
        return None
    found = mean_interval(values[known], cases[known], within=within, seed=seed)
    return {"value": float(values[known].mean()), "low": None, "high": None, **(found or {})}
