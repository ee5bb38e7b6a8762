"""New masks from real ones: mirrored, resized, moved, rotated and bent, but complete and within allowed regions.

Random parameters are drawn once and kept as numbers, which alone determine the result (Perez-Garcia et al. 2021,
TorchIO).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Self

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from medgen.config import Options

LabelMap = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.bool_]
Positive = Annotated[float, msgspec.Meta(gt=0)]

KNOTS = 4
"""Points a side at which the bending is drawn; between them it is a cubic."""
TRIES = 4
"""Warps that are tried, each half as strong as the one before, until one leaves the mask whole; then as many shifts."""
RIM = 64
"""Sides of an image over the width of the rim of a foreground, to which masks are drawn more or less closely."""
STILL = ((0.0,) * KNOTS**2,) * 2
"""No bending."""
AREA = (0.5, 2.0)
"""Area of a class over what it was, at least and at most."""


class WarpRange(Options, frozen=True):
    """How far a mask may be changed."""

    flip: bool = False
    """Whether half of the masks are mirrored, left and right."""
    scale: Positive = 1.25
    """Largest factor of its sides; the smallest is its inverse."""
    shift: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    """Along each axis, over the side of the image."""
    turn: Annotated[float, msgspec.Meta(ge=0, le=180)] = 20.0
    """Degrees, either way."""
    bend: Annotated[float, msgspec.Meta(ge=0, le=0.03)] = 0.02
    """Standard deviation of the bending at its knots, over the side of the image; little enough that nothing folds."""


class Warp(msgspec.Struct, frozen=True):
    """One change of a mask, as numbers: for the same mask, `warped` always gives the same result."""

    flip: bool
    scale: float
    shift: tuple[float, float]
    """(y, x), over the sides of the image."""
    turn: float
    """Degrees, counter-clockwise."""
    bend: tuple[tuple[float, ...], ...]
    """(2, KNOTS * KNOTS): y and x of the bending at its knots, row by row, over the sides of the image."""

    def weakened(self, share: float) -> Warp:
        """Between nothing (share 0) and this warp (1); mirrored or not as this one is."""
        y, x = self.shift
        return Warp(
            self.flip,
            self.scale**share,
            (y * share, x * share),
            self.turn * share,
            tuple(tuple(value * share for value in axis) for axis in self.bend),
        )


def draw(limits: WarpRange, seed: int, index: int) -> Warp:
    """The warp of sample `index`: a function of the seed and the index alone."""
    random = np.random.default_rng([seed, index])
    flip = bool(random.random() < 0.5)
    log_scale, y, x, turn = random.uniform(-1, 1, 4)
    bend = np.clip(random.normal(size=(2, KNOTS * KNOTS)), -2, 2) * limits.bend
    return Warp(
        flip and limits.flip,
        round(float(limits.scale**log_scale), 6),
        (round(float(y * limits.shift), 6), round(float(x * limits.shift), 6)),
        round(float(turn * limits.turn), 6),
        tuple(tuple(round(float(value), 6) for value in axis) for axis in bend),
    )


def warp_within(labels: LabelMap, warp: Warp, foreground: Plane | None = None) -> tuple[LabelMap, Warp]:
    """A label map (H, W) after the strongest part of `warp` that keeps it whole, and the warp that was applied.

    Whole: no class is lost or changes its number of pixels by more than AREA allows, and nothing crosses an edge of the
    image, or of the `foreground` (H, W), that did not lie there before. What an edge cut off continues beyond it as it
    was at the edge, and is cut off there again. If no warp is possible, the map is only shifted, or left unchanged,
    mirrored or not.
    """
    scene = _Scene.of(labels, warp.flip, foreground)
    for candidate in _candidates(warp, labels.shape):
        result = scene.warped(candidate)
        if result is not None and _is_whole(scene.labels, result):
            return np.ascontiguousarray(result), candidate
    return np.ascontiguousarray(scene.labels), Warp(warp.flip, 1.0, (0.0, 0.0), 0.0, STILL)


def warped(labels: LabelMap, warp: Warp, foreground: Plane | None = None) -> LabelMap:
    """A label map (H, W) after `warp`, by nearest neighbour, in an image of the same size and foreground."""
    result = _Scene.of(labels, warp.flip, foreground).warped(warp, checked=False)
    return np.ascontiguousarray(labels if result is None else result)


@dataclass(frozen=True)
class _Scene:
    """A mask at its place in the image, mirrored or not."""

    labels: LabelMap
    beyond: LabelMap
    """The same as it would go on outside the foreground."""
    ground: Plane | None

    @classmethod
    def of(cls, labels: LabelMap, flip: bool, foreground: Plane | None) -> Self:
        if flip:  # the foreground of a mirrored image is mirrored too
            labels, foreground = labels[:, ::-1], None if foreground is None else foreground[:, ::-1]
        if foreground is None:
            return cls(labels, labels, None)
        ground = foreground | (labels > 0)
        rim = max(2, min(labels.shape) // RIM)
        within = ndimage.binary_erosion(ground, iterations=rim, border_value=1)
        if within.all() or not (labels.astype(bool) & ~within).any() or not within.any():
            return cls(labels, labels, ground)
        nearest = ndimage.distance_transform_edt(~within, return_distances=False, return_indices=True)
        return cls(labels, labels[tuple(nearest)], ground)

    def warped(self, warp: Warp, *, checked: bool = True) -> LabelMap | None:
        """The map after `warp`; if it is to be checked, None where it passes an edge at which nothing was."""
        around, (m, n) = _around(self.beyond, warp, _middle(self.labels))
        result: LabelMap = around[m:-m, n:-n]
        if checked and not _stays(self.beyond, around, (m, n)):
            return None
        if self.ground is None:
            return result
        if checked and self.beyond is self.labels and (result.astype(bool) & ~self.ground).any():
            return None
        return np.where(self.ground, result, 0).astype(np.uint8)


def _candidates(warp: Warp, shape: tuple[int, ...]) -> Iterator[Warp]:
    """Weaker and weaker warps, then shifts by whole pixels, which leave even the smallest lesion unchanged."""
    shares = [0.5**attempt for attempt in range(TRIES)]
    yield from (warp.weakened(share) for share in shares)
    for share in shares:
        y, x = (round(share * part * side) / side for part, side in zip(warp.shift, shape, strict=True))
        yield Warp(warp.flip, 1.0, (y, x), 0.0, STILL)


def _around(labels: LabelMap, warp: Warp, middle: tuple[float, float]) -> tuple[LabelMap, tuple[int, int]]:
    """The map after `warp`, except mirroring, with a margin on all sides (H + 2 m, W + 2 n), and (m, n).

    It is rotated and resized about `middle` (y, x).
    """
    height, width = labels.shape
    margin = (max(1, height // 4), max(1, width // 4))
    rows = np.arange(-margin[0], height + margin[0]) + 0.5
    columns = np.arange(-margin[1], width + margin[1]) + 0.5
    y, x = np.meshgrid(rows, columns, indexing="ij")
    bend = [_spread(np.array(axis), y.shape) for axis in warp.bend]
    y = y - middle[0] - (warp.shift[0] + bend[0]) * height
    x = x - middle[1] - (warp.shift[1] + bend[1]) * width
    # Where the pixel comes from: turned back and scaled back about the middle of what is drawn.
    cos, sin = math.cos(math.radians(warp.turn)) / warp.scale, math.sin(math.radians(warp.turn)) / warp.scale
    from_y = np.floor(cos * y + sin * x + middle[0]).astype(np.intp)
    from_x = np.floor(-sin * y + cos * x + middle[1]).astype(np.intp)
    return labels[np.clip(from_y, 0, height - 1), np.clip(from_x, 0, width - 1)], margin


def _spread(knots: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Values at knots (KNOTS * KNOTS,) -> a smooth field of `shape` (H, W)."""
    plane = Image.fromarray(knots.reshape(KNOTS, KNOTS).astype(np.float32))
    return np.asarray(plane.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def _middle(labels: LabelMap) -> tuple[float, float]:
    """The centre (y, x) of the box around what is drawn; that of the image if nothing is."""
    drawn = np.nonzero(labels)
    if not len(drawn[0]):
        return labels.shape[0] / 2, labels.shape[1] / 2
    return float(drawn[0].min() + drawn[0].max() + 1) / 2, float(drawn[1].min() + drawn[1].max() + 1) / 2


def _is_whole(before: LabelMap, after: LabelMap) -> bool:
    counts = np.bincount(before.reshape(-1), minlength=256)[1:].astype(float)
    found = np.bincount(after.reshape(-1), minlength=256)[1:]
    return bool(((found >= AREA[0] * counts) & (found <= AREA[1] * counts)).all())


def _stays(before: LabelMap, around: LabelMap, margin: tuple[int, int]) -> bool:
    """Whether nothing has moved onto or beyond an edge of the image that was free before."""
    edges = (before[0], before[-1], before[:, 0], before[:, -1])
    m, n = margin
    beyond = (around[: m + 1], around[-m - 1 :], around[:, : n + 1], around[:, -n - 1 :])
    return all(edge.any() or not part.any() for edge, part in zip(edges, beyond, strict=True))
