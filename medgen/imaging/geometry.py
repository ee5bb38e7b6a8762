"""Resampling in millimetres and pixels, and the same map for points, so that labels follow the image exactly.

Coordinates run along pixel edges: pixel i covers [i, i + 1], the image [0, W].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from medgen.errors import ConfigError
from medgen.imaging.reading.rescale import Physical

Floats = npt.NDArray[np.float32]
Pair = tuple[float, float]

NEGLIGIBLE = 1e-3
"""Weight of a slice that may be unknown."""
IN_PLACE = 0.02
"""Share of the spacing by which a slice may lie off its place on an even grid."""


@dataclass(frozen=True)
class AxisMap:
    """One axis: [start, stop] of `source` pixels becomes `count` pixels, put at `place` in a row of `target`."""

    source: int
    target: int
    start: float
    stop: float
    place: int
    count: int

    @property
    def scale(self) -> float:
        """Target pixels per source pixel."""
        return self.count / (self.stop - self.start)

    def point(self, coordinate: float) -> float:
        """A source coordinate in target pixels."""
        return (coordinate - self.start) * self.scale + self.place

    def inverse(self, coordinate: float) -> float:
        """A target coordinate in source pixels."""
        return (coordinate - self.place) / self.scale + self.start

    def moved(self, by: float, source: int) -> AxisMap:
        """The same target from a row of `source` pixels whose coordinates are greater by `by`."""
        return replace(self, source=source, start=self.start + by, stop=self.stop + by)

    @property
    def margins(self) -> tuple[int, int]:
        """Whole pixels of [start, stop] that lie before and behind the source."""
        return max(0, math.ceil(-self.start)), max(0, math.ceil(self.stop - self.source))

    @property
    def covered(self) -> slice:
        """The target pixels, out of `count`, whose centre lies on the source."""
        centres = [self.inverse(self.place + index + 0.5) for index in range(self.count)]
        inside = [index for index, centre in enumerate(centres) if 0 <= centre <= self.source]
        return slice(inside[0], inside[-1] + 1) if inside else slice(0, 0)

    @property
    def nearest(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Target pixels whose centre lies on the source, and the source pixel that lies there."""
        covered = self.covered
        targets = np.arange(covered.start, covered.stop) + self.place
        sources = np.floor([self.inverse(target + 0.5) for target in targets]).astype(np.intp)
        return targets, np.clip(sources, 0, self.source - 1)


@dataclass(frozen=True)
class PlaneMap:
    """How each slice of a case is cropped, resampled and padded."""

    y: AxisMap
    x: AxisMap

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the slices it makes."""
        return self.y.target, self.x.target

    @property
    def identity(self) -> bool:
        """Whether nothing changes."""
        return all(axis == _whole(axis.source, axis.source, axis.source) for axis in (self.y, self.x))

    def image(self, values: Physical, fill: float) -> Physical:
        """(H, W, C) -> (H', W', C), linear, antialiased where it shrinks; `fill` outside the source."""
        if self.identity:
            return values
        y, x = self.y, self.x
        result = np.full((y.target, x.target, values.shape[2]), fill, dtype=np.float32)
        if any(y.margins + x.margins):
            values = np.pad(values, (y.margins, x.margins, (0, 0)), mode="edge")
        (up, _), (left, _) = y.margins, x.margins
        box = (x.start + left, y.start + up, x.stop + left, y.stop + up)
        rows, columns = y.covered, x.covered
        target = result[y.place : y.place + y.count, x.place : x.place + x.count]
        for channel in range(values.shape[2]):
            plane = Image.fromarray(np.ascontiguousarray(values[:, :, channel], dtype=np.float32))
            part = plane.resize((x.count, y.count), Image.Resampling.BILINEAR, box=box)
            target[rows, columns, channel] = np.asarray(part)[rows, columns]
        return result

    def moved(self, by: Pair, source: tuple[int, int]) -> PlaneMap:
        """The same target from an image of `source` (H, W) whose coordinates are greater by `by` (y, x)."""
        return PlaneMap(self.y.moved(by[0], source[0]), self.x.moved(by[1], source[1]))

    def shifted(self, shift: Pair) -> PlaneMap:
        """The same for a slice that is shifted by `shift` (y, x) pixels against the one this was made for."""
        return self.moved((-shift[0], -shift[1]), (self.y.source, self.x.source))

    def labels(self, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(H, W) classes -> (H', W'): the class of the pixel that lies in the place of each centre; 0 outside."""
        result = np.zeros((self.y.target, self.x.target), np.uint8)
        (rows, from_rows), (columns, from_columns) = self.y.nearest, self.x.nearest
        result[np.ix_(rows, columns)] = values[np.ix_(from_rows, from_columns)]
        return result

    def centre(self, x: float, y: float) -> Pair:
        """A point in fractions of width and height -> the same in the target."""
        return self.x.point(x * self.x.source) / self.x.target, self.y.point(y * self.y.source) / self.y.target

    def extent(self, width: float, height: float) -> float:
        """A box in fractions of width and height -> its longest side in the target, as a fraction of the width."""
        return max(width * self.x.source * self.x.scale, height * self.y.source * self.y.scale) / self.x.target


def parse_size(text: str) -> tuple[int, int] | None:
    """`256` or `256x192` (width x height) -> (H, W); None for ""."""
    if not text:
        return None
    width, separator, height = text.partition("x")
    height = height if separator else width
    if not all(part.isdigit() and 1 <= int(part) <= 16384 for part in (width, height)):
        raise ConfigError(f"size '{text}': expected pixels such as 256, or 256x192 for width x height")
    return int(height), int(width)


def plan_plane(
    source: tuple[int, int], pixel: Pair, *, size: tuple[int, int] | None, keep_aspect: bool, spacing: float | None
) -> PlaneMap:
    """The map for images of `source` (H, W) whose pixels measure `pixel` (y, x) mm.

    `spacing` alone resamples to square pixels of that many mm; with `size`, the result is then cropped or padded about
    its centre. `size` alone scales: with `keep_aspect` so that mm look the same both ways, padded; else stretched.
    """
    if spacing is not None:
        targets = size or (None, None)
        axes = [_metric(n, p / spacing, t) for n, p, t in zip(source, pixel, targets, strict=True)]
        return PlaneMap(axes[0], axes[1])
    if size is None:
        return PlaneMap(*(_whole(n, n, n) for n in source))
    if not keep_aspect:
        return PlaneMap(*(_whole(n, t, t) for n, t in zip(source, size, strict=True)))
    scale = min(t / (n * p) for n, p, t in zip(source, pixel, size, strict=True))  # target pixels a mm
    counts = [min(t, max(1, round(n * p * scale))) for n, p, t in zip(source, pixel, size, strict=True)]
    return PlaneMap(*(_whole(n, t, c) for n, t, c in zip(source, size, counts, strict=True)))


def _whole(source: int, target: int, count: int) -> AxisMap:
    """The whole source, as `count` pixels in the middle of `target`."""
    return AxisMap(source, target, 0.0, float(source), (target - count) // 2, count)


def _metric(source: int, scale: float, target: int | None) -> AxisMap:
    """Exactly `scale` target pixels per source pixel; a partial pixel at the rim is cut off."""
    count = max(1, math.floor(source * scale + 1e-6))
    if target is not None:
        count = min(count, target)
    span = min(float(source), count / scale)
    start = (source - span) / 2
    whole = count if target is None else target
    return AxisMap(source, whole, start, start + span, (whole - count) // 2, count)


@dataclass(frozen=True)
class DepthMap:
    """How slices at `source` (mm along the normal) become slices at `targets`: `weights` (D', D), rows sum to 1."""

    weights: npt.NDArray[np.float64]
    targets: npt.NDArray[np.float64]
    source: npt.NDArray[np.float64]

    @property
    def nearest(self) -> npt.NDArray[np.intp]:
        """(D',) index of the source slice closest to each target."""
        found: npt.NDArray[np.intp] = np.abs(self.targets[:, None] - self.source).argmin(axis=1)
        return found

    @property
    def distance(self) -> npt.NDArray[np.float64]:
        """(D',) mm from each target to that slice."""
        return np.abs(self.targets - self.source[self.nearest])

    def volume(self, values: Floats) -> Floats:
        """(D, ...) -> (D', ...); NaN where a slice that counts is NaN."""
        flat = values.reshape(len(values), -1)
        weights = self.weights.astype(np.float32)
        known = np.isfinite(flat)
        if known.all():
            return (weights @ flat).reshape(-1, *values.shape[1:])
        sums = weights @ np.where(known, flat, np.float32(0.0))
        sums[weights @ (~known).astype(np.float32) > NEGLIGIBLE] = np.nan
        return sums.reshape(-1, *values.shape[1:])

    def then(self, other: DepthMap) -> DepthMap:
        """First this map, then `other`, as one."""
        return DepthMap(other.weights @ self.weights, other.targets, self.source)


def plan_depth(offsets: npt.ArrayLike, spacing: float, thickness: float) -> DepthMap:
    """Slices `spacing` mm apart -> slices `thickness` mm apart over the same extent, about the same middle.

    Thicker ones are the average over what they cover; thinner ones are linear between the two neighbours.
    """
    places = np.asarray(offsets, dtype=np.float64)
    extent = places[-1] - places[0] + spacing
    count = max(1, math.floor(extent / thickness + 1e-6))
    targets = (places[0] + places[-1]) / 2 + (np.arange(count) - (count - 1) / 2) * thickness
    if thickness <= spacing:
        return _between(places, targets)
    low = np.maximum(targets[:, None] - thickness / 2, places - spacing / 2)
    high = np.minimum(targets[:, None] + thickness / 2, places + spacing / 2)
    weights = np.maximum(high - low, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return DepthMap(weights, targets, places)


def plan_even(offsets: npt.ArrayLike, spacing: float) -> DepthMap:
    """Slices at any `offsets` -> slices `spacing` mm apart from the first one on, linear between two neighbours.

    A slice within `IN_PLACE` of the spacing from its place is used unchanged.
    """
    places = np.asarray(offsets, dtype=np.float64)
    count = math.floor((places[-1] - places[0]) / spacing + IN_PLACE) + 1
    targets = places[0] + spacing * np.arange(count)
    nearest = places[np.abs(targets[:, None] - places).argmin(axis=1)]
    found = _between(places, np.where(np.abs(targets - nearest) <= IN_PLACE * spacing, nearest, targets))
    return replace(found, targets=targets)


def _between(places: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> DepthMap:
    """Linear between the two neighbours of each target; constant beyond the outermost places."""
    inside = np.clip(targets, places[0], places[-1])
    left = np.clip(np.searchsorted(places, inside, side="right") - 1, 0, len(places) - 1)
    right = np.minimum(left + 1, len(places) - 1)
    gap = np.where(right > left, places[right] - places[left], 1.0)
    share = (inside - places[left]) / gap
    weights = np.zeros((len(targets), len(places)))
    weights[np.arange(len(targets)), left] += 1.0 - share
    weights[np.arange(len(targets)), right] += share
    weights /= weights.sum(axis=1, keepdims=True)
    return DepthMap(weights, targets, places)
