"""How wide a spot is: the longer side of its bounding box at half its height above the surroundings.

However much a uniform disc is blurred, its edge lies at half maximum (except for discs of a pixel or two). Rays go out
from the middle; a vessel or a wall that touches the spot meets only a few of them, and is cut off.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Image = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

RAYS = 32
STEP = 0.25
"""Pixels along a ray."""
REACH, LEAST_REACH = 2.2, 0.13
"""Length of a ray over the scale of the spot, and over the width of the image at least."""
SURROUNDINGS = 0.3
"""Share of a ray from which on it counts as surroundings."""
OUTSIDE_AIR = -960.0
"""HU below which air is more likely around a body than in a lung."""
LUNG = 10.0
"""Percentile of the surroundings that is lung: the others may be vessels, wall or heart."""
SOMEHOW = 0.25
"""Share of the height from which on something belongs to the spot, so that a solid speck in ground glass is not all."""
INNER = 0.6
"""Share of that radius within which the height is measured."""
NEIGHBOURS = 5
"""Rays of which the median is taken: thin spicules and vessels do not count."""
USUAL, LONGEST = 0.4, 1.2
"""A quantile of the radii, and the radius over it from which on a ray has left the spot for what it touches."""
ROUNDS = 3
"""The middle of what was measured is where the next round begins."""

ANGLES = np.arange(RAYS) * (2 * np.pi / RAYS)


class Extent(NamedTuple):
    """Middle and longer side, in pixels."""

    row: float
    column: float
    width: float


def at_half_maximum(image: Image, row: float, column: float, scale: float) -> Extent:
    """Of the spot around (row, column) in an image (H, W) in HU; `scale` is about its diameter in pixels.

    A spot without an end, such as a bulge of the wall, keeps its place and the size of its scale.
    """
    along = np.arange(0.0, max(REACH * scale, LEAST_REACH * image.shape[1]), STEP)
    radii, down, right = np.full(RAYS, scale / 2), 0.0, 0.0
    for _ in range(ROUNDS):
        places = [row + down + np.outer(np.sin(ANGLES), along), column + right + np.outer(np.cos(ANGLES), along)]
        values = ndimage.map_coordinates(image, places, order=1, mode="nearest").astype(np.float64)  # (RAYS, K)
        around = values[:, along >= SURROUNDINGS * along[-1]]
        lung = float(np.percentile(around[around > OUTSIDE_AIR] if (around > OUTSIDE_AIR).any() else around, LUNG))
        middle = float(np.median(values[:, along <= 1.0]))
        inside = along <= INNER * crossings(values, along, lung + SOMEHOW * (middle - lung))[:, None]
        height = weighted_median(values[inside], np.broadcast_to(along, values.shape)[inside]) - lung
        if not values[0, 0] > lung + height / 2 > lung:
            break  # the middle moved off the spot
        found = crossings(values, along, lung + height / 2)
        if not np.isfinite(found).all():
            break  # most of it runs into a wall
        radii = found
        area = (radii**2).sum() / 2
        lower = down + float((radii**3 * np.sin(ANGLES)).sum() / 3 / area)
        further = right + float((radii**3 * np.cos(ANGLES)).sum() / 3 / area)
        if np.hypot(lower, further) > scale / 2:
            break  # and to its brighter neighbour, such as the heart
        down, right = lower, further
    width = float(max(np.ptp(radii * np.sin(ANGLES)), np.ptp(radii * np.cos(ANGLES))))
    return Extent(row + down, column + right, width)


def crossings(values: Values, along: Values, level: float) -> Values:
    """The radius (RAYS,) at which each ray's values (RAYS, K) at `along` (K,) first fall below the level.

    Rays that never do, or go far beyond the usual radius, end there; infinite where hardly any do.
    """
    below = values < level
    first = np.clip(below.argmax(axis=1), 1, None)
    rays = np.arange(RAYS)
    last, next_ = values[rays, first - 1], values[rays, first]
    share = np.clip((last - level) / np.maximum(last - next_, 1e-9), 0.0, 1.0)
    radii = np.where(below.any(axis=1), along[first - 1] + share * STEP, np.inf)
    smooth: Values = ndimage.median_filter(radii, NEIGHBOURS, mode="wrap")
    return np.minimum(smooth, LONGEST * float(np.sort(smooth)[int(USUAL * RAYS)]))


def weighted_median(values: Values, weights: Values) -> float:
    """The value with half of the weight on either side."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][min(int(np.searchsorted(total, total[-1] / 2)), len(order) - 1)])
