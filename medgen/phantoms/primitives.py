"""Building blocks of procedural anatomy, all continuous in mm and sampled one plane at a time.

Coordinates are patient coordinates (DICOM LPS): x grows to the patient's left, y to the back, z to the head.
A distance is signed, in mm, negative inside; it is true near the surface and only roughly so far from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
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
        """x and y of the first pixel's centre."""
        half = (self.size - 1) / 2 * self.pixel
        return self.centre_x - half, self.centre_y - half

    @cached_property
    def x(self) -> Floats:
        """(1, W)"""
        return (self.first[0] + self.pixel * np.arange(self.size, dtype=np.float32)).astype(np.float32)[None, :]

    @cached_property
    def y(self) -> Floats:
        """(H, 1)"""
        return (self.first[1] + self.pixel * np.arange(self.size, dtype=np.float32)).astype(np.float32)[:, None]

    def window(self, x: tuple[float, float], y: tuple[float, float]) -> tuple[slice, slice]:
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
        """A grid over the same field, at least 2.5 mm apart: smooth fields are computed there and interpolated."""
        field = (self.size - 1) * self.pixel
        count = min(self.size, int(np.ceil(field / 2.5)) + 1)
        return Grid(count, field / max(count - 1, 1), self.centre_x, self.centre_y)

    def refine(self, field: Floats) -> Floats:
        """(..., h, w) on `coarse` -> (..., H, W) here, bilinear."""
        if self.coarse.size == self.size:
            return field
        position = np.linspace(0.0, self.coarse.size - 1.0, self.size)
        below = np.minimum(position.astype(np.intp), self.coarse.size - 2)
        weight = (position - below).astype(np.float32)[:, None]

        def rows(values: Floats) -> Floats:
            low = values.take(below, axis=-2)
            high = values.take(below + 1, axis=-2)
            high -= low
            high *= weight
            high += low
            return high

        return np.ascontiguousarray(rows(np.ascontiguousarray(rows(field).swapaxes(-1, -2))).swapaxes(-1, -2))


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
    """Radial distance to an ellipsoid around 0, right in sign even where z alone leaves it."""
    level = np.sqrt((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2)
    rho = np.sqrt(x * x + y * y + z * z)
    return rho * (1.0 - 1.0 / np.maximum(level, 1e-3))


def smooth_max(a: Any, b: Any, width: float) -> Any:
    """Intersection of two shapes with a rounded edge (polynomial, `width` mm)."""
    h = np.maximum(width - np.abs(a - b), 0.0)
    return np.maximum(a, b) + h * h / (4.0 * width)


def smooth_min(a: Any, b: Any, width: float) -> Any:
    """Union of two shapes with a filled seam."""
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

    The lattice repeats far outside the body, so that any place may be asked for.
    """

    def __init__(self, rng: np.random.Generator, step: float, *, extent: float = 420.0, depth: float = 400.0) -> None:
        self.step = step
        self.count = int(extent / step) + 2
        self.layers = int(depth / step) + 2
        self.values = rng.standard_normal((self.layers, self.count, self.count), dtype=np.float32)

    def plane(self, z: float, x: Floats, y: Floats) -> Floats:
        """(H, W) values at height z and the places x (1, W), y (H, 1)."""
        layer = self._mix(self.values, z / self.step + 0.5 * self.layers)  # (n, n)
        half = 0.5 * self.count
        rows = self._mix_rows(layer, y[:, 0] / self.step + half)  # (H, n)
        turned = np.ascontiguousarray(rows.T)
        columns = self._mix_rows(turned, x[0] / self.step + half)  # (W, H)
        return np.ascontiguousarray(columns.T) * np.float32(1.6)  # linear interpolation lowers the variance

    def _mix(self, values: Floats, position: float) -> Floats:
        low = int(np.floor(position))
        weight = np.float32(position - low)
        mixed = values[low % self.layers] * (1 - weight) + values[(low + 1) % self.layers] * weight
        return mixed.astype(np.float32)

    def _mix_rows(self, values: Floats, position: Floats) -> Floats:
        low = np.floor(position).astype(np.intp)
        weight = (position - low).astype(np.float32)[:, None]
        below = values.take(low % self.count, axis=0)
        above = values.take((low + 1) % self.count, axis=0)
        above -= below
        above *= weight
        above += below
        return above


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

    def distance(self, z: float, grid: Grid, reach: float) -> Floats:
        """(H, W) distance to the nearest surface, exact up to `reach` mm outside and FAR beyond.

        Tubes thinner than `reach` are made shallower, so that their coverage falls with their width.
        """
        out = np.full((grid.size, grid.size), FAR, np.float32)
        widest = np.maximum(self.radius_start, self.radius_end) + np.float32(reach)
        tall = widest * np.float32(self.flatten)
        low = np.minimum(self.start[:, 2], self.end[:, 2]) - tall
        high = np.maximum(self.start[:, 2], self.end[:, 2]) + tall
        active = np.flatnonzero((low <= z) & (high >= z))
        if not len(active):
            return out
        a, b, wide = self.start[active], self.end[active], widest[active]
        first = np.asarray(grid.first, np.float32)
        corner = np.floor((np.minimum(a, b)[:, :2] - wide[:, None] - first) / grid.pixel).astype(np.intp)
        extent = np.abs(a - b)[:, :2].max(axis=1) + 2 * wide
        side = np.ceil(extent / grid.pixel).astype(np.intp) + 2
        classes = 1 << np.ceil(np.log2(np.maximum(side, 4) / 1.0) * 2).astype(np.intp)  # 2 classes an octave
        flat = out.reshape(-1)
        for group in np.unique(classes):
            chosen = np.flatnonzero(classes == group)
            edge = int(side[chosen].max())
            self._stamp(flat, z, grid, active[chosen], corner[chosen], edge, reach)
        return out

    def _stamp(
        self,
        flat: Floats,
        z: float,
        grid: Grid,
        which: npt.NDArray[np.intp],
        corner: npt.NDArray[np.intp],
        edge: int,
        reach: float,
    ) -> None:
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
        inside = (columns >= 0) & (columns < grid.size)
        within = ((rows >= 0) & (rows < grid.size))[:, :, None] & inside[:, None, :]
        within &= distance < reach
        index = (rows * grid.size)[:, :, None] + columns[:, None, :]
        np.minimum.at(flat, index[within], distance[within])
