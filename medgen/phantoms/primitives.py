"""Building blocks of procedural anatomy, all continuous in mm and sampled one plane at a time.

Coordinates are patient coordinates (DICOM LPS): x grows to the patient's left, y to the back, z to the head.
A distance is signed, in mm, negative inside; it is accurate near the surface and only approximate far from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Window = tuple[slice, slice]
Indices = npt.NDArray[np.intp]
FAR = np.float32(1e3)


@dataclass(frozen=True)
class Grid:
    """A square grid of `size` x `size` pixel centres, `pixel` mm apart, centred on (centre_x, centre_y)."""

    size: int
    pixel: float
    centre_x: float = 0.0
    centre_y: float = 0.0

    @property
    def first(self) -> tuple[float, float]:
        """The first pixel's centre: x, y."""
        half = (self.size - 1) / 2 * self.pixel
        return self.centre_x - half, self.centre_y - half

    @cached_property
    def x(self) -> Floats:
        """Place of each column, (1, W)."""
        return (self.first[0] + self.pixel * np.arange(self.size, dtype=np.float32)).astype(np.float32)[None, :]

    @cached_property
    def y(self) -> Floats:
        """Place of each row, (H, 1)."""
        return (self.first[1] + self.pixel * np.arange(self.size, dtype=np.float32)).astype(np.float32)[:, None]

    def window(self, x: tuple[float, float], y: tuple[float, float]) -> Window:
        """Index slices (rows, columns) of the pixels inside a box in mm; empty where the box misses the grid."""
        columns = self._range(x, self.first[0])
        rows = self._range(y, self.first[1])
        return rows, columns

    def _range(self, span: tuple[float, float], first: float) -> slice:
        low = int(np.ceil((span[0] - first) / self.pixel))
        high = int(np.floor((span[1] - first) / self.pixel)) + 1
        low = min(max(low, 0), self.size)
        return slice(low, min(max(high, low), self.size))

    @cached_property
    def coarse(self) -> Grid:
        """A grid over the same field, spaced at least 3.5 mm: smooth fields are computed there and interpolated."""
        field = (self.size - 1) * self.pixel
        count = min(self.size, int(np.ceil(field / 3.5)) + 1)
        return Grid(count, field / max(count - 1, 1), self.centre_x, self.centre_y)

    def refine(self, field: Floats) -> Floats:
        """(..., h, w) on `coarse` -> (..., H, W) here, bilinear."""
        if self.coarse.size == self.size:
            return field
        return enlarge(field, self.size, self.size)


def enlarge(field: Floats, rows: int, columns: int) -> Floats:
    """(..., h, w) -> (..., rows, columns), bilinear, corners aligned; for fewer rows and columns it subsamples."""
    across = np.linspace(0.0, field.shape[-1] - 1.0, columns)
    down = np.linspace(0.0, field.shape[-2] - 1.0, rows)
    left, upper = (
        np.minimum(at.astype(np.intp), n - 2) for at, n in ((across, field.shape[-1]), (down, field.shape[-2]))
    )
    mixed = _mix_columns(field, left, left + 1, (across - left).astype(np.float32))
    return _mix_rows(mixed, upper, upper + 1, (down - upper).astype(np.float32))


def _mix_rows(values: Floats, low: Indices, high: Indices, weight: Floats) -> Floats:
    """Linear interpolation between rows `low` and `high`: (..., h, W) -> (..., H, W)."""
    mixed = values.take(high, axis=-2)
    start = values.take(low, axis=-2)
    mixed -= start
    mixed *= weight[:, None]
    mixed += start
    return mixed


def _mix_columns(values: Floats, low: Indices, high: Indices, weight: Floats) -> Floats:
    """The same along the last axis; done first, while the array is small."""
    turned = np.ascontiguousarray(values.swapaxes(-1, -2))
    return np.ascontiguousarray(_mix_rows(turned, low, high, weight).swapaxes(-1, -2))


def superellipse(x: Any, y: Any, radius_x: Any, radius_y: Any, power: float = 2.0) -> Any:
    """Radial distance to |x/a|^n + |y/b|^n = 1."""
    if power == 2.0:
        level = np.sqrt((x / radius_x) ** 2 + (y / radius_y) ** 2)
    else:
        level = (np.abs(x / radius_x) ** power + np.abs(y / radius_y) ** power) ** (1.0 / power)
    rho = np.sqrt(x * x + y * y)
    level = np.maximum(level, 1e-3)
    return rho * (1.0 - 1.0 / level)


def ellipsoid(x: Any, y: Any, z: Any, radii: tuple[Any, Any, Any]) -> Any:
    """Radial distance to an ellipsoid around 0, with the right sign even where z alone is outside it."""
    level = np.sqrt((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2)
    rho = np.sqrt(x * x + y * y + z * z)
    return rho * (1.0 - 1.0 / np.maximum(level, 1e-3))


def smooth_max(a: Any, b: Any, width: float) -> Any:
    """Intersection of two shapes with a rounded edge (polynomial, `width` mm)."""
    h = np.maximum(width - np.abs(a - b), 0.0)
    return np.maximum(a, b) + h * h / (4.0 * width)


def smooth_min(a: Any, b: Any, width: float) -> Any:
    """Union of two shapes with a smoothed seam."""
    h = np.maximum(width - np.abs(a - b), 0.0)
    return np.minimum(a, b) - h * h / (4.0 * width)


def coverage(distance: Floats, softness: float) -> Floats:
    """Fraction of a pixel inside a shape, from the signed distance; the edge is `softness` mm wide."""
    result = distance * np.float32(-1.0 / softness)
    result += np.float32(0.5)
    return np.clip(result, 0.0, 1.0, out=result)


def paint(image: Floats, value: Any, alpha: Any) -> None:
    """Mix `value` into `image` in place, with weight `alpha`."""
    image += (value - image) * alpha


@dataclass(frozen=True)
class Harmonics:
    """A low-order random closed-curve deformation that drifts along z: a relative change of radius."""

    amplitude: Floats  # (K,)
    phase: Floats
    drift: Floats

    @staticmethod
    def draw(rng: np.random.Generator, strength: float, orders: int = 4) -> Harmonics:
        """Orders 2, 3, ...; higher ones are weaker."""
        order = np.arange(2, 2 + orders)
        amplitude = rng.normal(0.0, strength, orders) / (order - 1.0)
        return Harmonics(
            amplitude.astype(np.float32),
            rng.uniform(0.0, 2.0 * np.pi, orders).astype(np.float32),
            rng.normal(0.0, 0.012, orders).astype(np.float32),
        )

    def __call__(self, angle: Any, z: Any) -> Any:
        """The relative change of radius at an angle."""
        total = 0.0
        for order, (amplitude, phase, drift) in enumerate(zip(self.amplitude, self.phase, self.drift, strict=True), 2):
            total = total + amplitude * np.cos(order * angle + phase + drift * z)
        return total


class LatticeNoise:
    """Band-limited noise, continuous in mm, near unit variance: random values on a lattice, linear between its points.

    The lattice repeats far outside the body, so that any place is defined.
    """

    def __init__(self, rng: np.random.Generator, step: float, *, extent: float = 420.0, depth: float = 400.0) -> None:
        self.step = step
        self.count = int(extent / step) + 2
        self.layers = int(depth / step) + 2
        self.values = rng.standard_normal((self.layers, self.count, self.count), dtype=np.float32)

    def plane(self, z: float, x: Floats, y: Floats) -> Floats:
        """(H, W) values at height z and the places x (1, W), y (H, 1)."""
        at = z / self.step + 0.5 * self.layers
        below = int(np.floor(at))
        weight = np.float32(at - below)
        layer = self.values[below % self.layers] * (1 - weight) + self.values[(below + 1) % self.layers] * weight
        columns = _mix_columns(layer, *self._neighbours(x[0]))
        return _mix_rows(columns, *self._neighbours(y[:, 0])) * np.float32(1.6)  # interpolation lowers the variance

    def _neighbours(self, place: Floats) -> tuple[Indices, Indices, Floats]:
        position = place / np.float32(self.step) + np.float32(0.5 * self.count)
        low = np.floor(position).astype(np.intp)
        return low % self.count, (low + 1) % self.count, (position - low).astype(np.float32)


@dataclass(frozen=True)
class Tubes:
    """Tapered round segments; `flatten` > 1 stretches the cross-section along z (a rib is taller than thick)."""

    start: Floats  # (N, 3), x y z
    end: Floats  # (N, 3)
    radius_start: Floats  # (N,)
    radius_end: Floats  # (N,)
    flatten: float = 1.0

    @staticmethod
    def path(points: npt.ArrayLike, radii: npt.ArrayLike, flatten: float = 1.0) -> Tubes:
        """A chain through `points` (N, 3) with `radii` (N,) or one radius."""
        line = np.asarray(points, np.float32)
        wide = np.broadcast_to(np.asarray(radii, np.float32), (len(line),))
        return Tubes(line[:-1], line[1:], wide[:-1].copy(), wide[1:].copy(), flatten)

    @staticmethod
    def join(parts: list[Tubes]) -> Tubes:
        """All segments of `parts`, which share one `flatten`."""
        return Tubes(
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.end for part in parts]),
            np.concatenate([part.radius_start for part in parts]),
            np.concatenate([part.radius_end for part in parts]),
            parts[0].flatten,
        )

    def select(self, keep: npt.NDArray[np.bool_]) -> Tubes:
        """The segments where `keep` is true."""
        return Tubes(self.start[keep], self.end[keep], self.radius_start[keep], self.radius_end[keep], self.flatten)

    def distance(self, z: float, grid: Grid, reach: float) -> tuple[Window, Floats]:
        """Where the plane at z cuts the tubes (rows, columns), and there the distance (h, w) to the nearest surface.

        The distance is exact up to `reach` mm outside, and FAR beyond. Tubes thinner than `reach` are made shallower,
        so that their coverage falls with their width.
        """
        widest = np.maximum(self.radius_start, self.radius_end) + np.float32(reach)
        tall = widest * np.float32(self.flatten)
        low = np.minimum(self.start[:, 2], self.end[:, 2]) - tall
        high = np.maximum(self.start[:, 2], self.end[:, 2]) + tall
        active = np.flatnonzero((low <= z) & (high >= z))
        if not len(active):
            return (slice(0, 0), slice(0, 0)), np.empty((0, 0), np.float32)
        a, b, wide = self.start[active, :2], self.end[active, :2], widest[active]
        first = np.asarray(grid.first, np.float32)
        corner = np.floor((np.minimum(a, b) - wide[:, None] - first) / np.float32(grid.pixel)).astype(np.intp)
        side = np.ceil((np.abs(a - b).max(axis=1) + 2 * wide) / np.float32(grid.pixel)).astype(np.intp) + 2
        left, top = np.clip(corner.min(axis=0), 0, grid.size).tolist()
        right, bottom = np.clip((corner + side[:, None]).max(axis=0), 0, grid.size).tolist()
        out = np.full((bottom - top, right - left), FAR, np.float32)
        if out.size:
            classes = np.ceil(2.0 * np.log2(side)).astype(np.intp)  # patches of similar size are computed together
            for group in np.unique(classes):
                chosen = np.flatnonzero(classes == group)
                self._stamp(out, z, grid, active[chosen], corner[chosen], int(side[chosen].max()), (left, top), reach)
        return (slice(top, bottom), slice(left, right)), out

    def _stamp(
        self,
        out: Floats,
        z: float,
        grid: Grid,
        which: Indices,
        corner: Indices,
        edge: int,
        offset: tuple[int, int],
        reach: float,
    ) -> None:
        """Lower `out` to the distance from each segment of `which`, in a patch of `edge` pixels at its `corner`."""
        columns = corner[:, 0, None] + np.arange(edge)  # (K, edge)
        rows = corner[:, 1, None] + np.arange(edge)
        a, axis = self.start[which], self.end[which] - self.start[which]
        scale = np.float32(1.0 / self.flatten)
        axis_z = axis[:, 2] * scale
        up = (np.float32(z) - a[:, 2]) * scale
        x = (np.float32(grid.first[0]) + columns * np.float32(grid.pixel)).astype(np.float32) - a[:, 0, None]
        y = (np.float32(grid.first[1]) + rows * np.float32(grid.pixel)).astype(np.float32) - a[:, 1, None]
        length = np.maximum(axis[:, 0] ** 2 + axis[:, 1] ** 2 + axis_z**2, np.float32(1e-6))
        along_x = x * (axis[:, 0] / length)[:, None]
        along_y = y * (axis[:, 1] / length)[:, None] + (up * axis_z / length)[:, None]
        t = np.clip(along_y[:, :, None] + along_x[:, None, :], 0.0, 1.0)  # (K, edge, edge)
        distance = (x[:, None, :] - t * axis[:, 0, None, None]) ** 2
        distance += (y[:, :, None] - t * axis[:, 1, None, None]) ** 2
        distance += (up[:, None, None] - t * axis_z[:, None, None]) ** 2
        np.sqrt(distance, out=distance)
        r0, r1 = self.radius_start[which][:, None, None], self.radius_end[which][:, None, None]
        t *= r1 - r0
        t += r0
        distance -= t
        distance += np.maximum(np.float32(reach / 2) - t, 0)
        columns -= offset[0]
        rows -= offset[1]
        within = (rows >= 0)[:, :, None] & (rows < out.shape[0])[:, :, None]
        within = within & ((columns >= 0) & (columns < out.shape[1]))[:, None, :]
        within &= distance < reach
        index = (rows * out.shape[1])[:, :, None] + columns[:, None, :]
        np.minimum.at(out.reshape(-1), index[within], distance[within])
