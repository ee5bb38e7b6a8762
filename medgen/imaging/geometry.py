"""Resampling in millimetres and pixels, and the same map for points, so that labels follow the image exactly.

Coordinates run along pixel edges: pixel i covers [i, i + 1], the image [0, W].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from medgen.errors import ConfigError
from medgen.imaging.reading.rescale import Physical

Floats = npt.NDArray[np.float32]
Pair = tuple[float, float]


@dataclass(frozen=True)
class AxisMap:
    """One axis: [start, stop] of `source` pixels becomes `count` pixels, laid at `place` in a row of `target`."""

    source: int
    target: int
    start: float
    stop: float
    place: int
    count: int

    @property
    def scale(self) -> float:
        """Target pixels a source pixel."""
        return self.count / (self.stop - self.start)

    def point(self, coordinate: float) -> float:
        """A source coordinate in target pixels."""
        return (coordinate - self.start) * self.scale + self.place

    def inverse(self, coordinate: float) -> float:
        """A target coordinate in source pixels."""
        return (coordinate - self.place) / self.scale + self.start


@dataclass(frozen=True)
class PlaneMap:
    """How each slice of a case is cropped, resampled and padded."""

    y: AxisMap
    x: AxisMap

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
        for channel in range(values.shape[2]):
            plane = Image.fromarray(np.ascontiguousarray(values[:, :, channel], dtype=np.float32))
            part = plane.resize((x.count, y.count), Image.Resampling.BILINEAR, box=(x.start, y.start, x.stop, y.stop))
            result[y.place : y.place + y.count, x.place : x.place + x.count, channel] = np.asarray(part)
        return result

    def mask(self, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(H, W) of 0 and 1 -> (H', W'): 1 where at least half of the pixel is covered."""
        return (self.image(values.astype(np.float32)[:, :, None], 0.0)[:, :, 0] >= 0.5).astype(np.uint8)

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
    """Exactly `scale` target pixels a source pixel; what does not fill a whole pixel at the rim goes."""
    count = max(1, math.floor(source * scale + 1e-6))
    if target is not None:
        count = min(count, target)
    span = min(float(source), count / scale)
    start = (source - span) / 2
    whole = count if target is None else target
    return AxisMap(source, whole, start, start + span, (whole - count) // 2, count)


@dataclass(frozen=True)
class DepthMap:
    """How slices at `offsets` (mm along the normal) become slices at `targets`: `weights` (D', D), rows sum to 1."""

    weights: npt.NDArray[np.float64]
    targets: npt.NDArray[np.float64]
    nearest: npt.NDArray[np.intp]  # (D',) index of the source slice closest to each target

    def volume(self, values: Floats) -> Floats:
        """(D, ...) -> (D', ...)."""
        flat = values.reshape(len(values), -1)
        return (self.weights.astype(np.float32) @ flat).reshape(-1, *values.shape[1:])


def plan_depth(offsets: npt.ArrayLike, spacing: float, thickness: float) -> DepthMap:
    """Slices `spacing` mm apart -> slices `thickness` mm apart over the same extent, about the same middle.

    Thicker ones are the average over what they cover; thinner ones are linear between the two neighbours.
    """
    places = np.asarray(offsets, dtype=np.float64)
    extent = places[-1] - places[0] + spacing
    count = max(1, math.floor(extent / thickness + 1e-6))
    targets = (places[0] + places[-1]) / 2 + (np.arange(count) - (count - 1) / 2) * thickness
    if thickness > spacing:
        low = np.maximum(targets[:, None] - thickness / 2, places - spacing / 2)
        high = np.minimum(targets[:, None] + thickness / 2, places + spacing / 2)
        weights = np.maximum(high - low, 0.0)
    else:
        inside = np.clip(targets, places[0], places[-1])
        left = np.clip(np.searchsorted(places, inside, side="right") - 1, 0, len(places) - 1)
        right = np.minimum(left + 1, len(places) - 1)
        gap = np.where(right > left, places[right] - places[left], 1.0)
        share = (inside - places[left]) / gap
        weights = np.zeros((count, len(places)))
        weights[np.arange(count), left] += 1.0 - share
        weights[np.arange(count), right] += share
    weights /= weights.sum(axis=1, keepdims=True)
    return DepthMap(weights, targets, np.abs(targets[:, None] - places).argmin(axis=1))
