"""Hand-drawn plane shapes: smooth lines through points, and signed distances to the areas they enclose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.phantoms.primitives import FAR, Floats, Window

Points = npt.NDArray[np.float64]
PIECES = 5  # straight pieces between two points of a smooth line


def smooth_line(points: npt.ArrayLike, *, closed: bool = False) -> Points:
    """Catmull-Rom through `points` (N, 2) -> (M, 2)."""
    given = np.asarray(points, np.float64)
    if closed:
        around = np.concatenate([given[-1:], given, given[:2]])
    else:
        around = np.concatenate([2 * given[:1] - given[1:2], given, 2 * given[-1:] - given[-2:-1]])
    before, a, b, after = around[:-3], around[1:-2], around[2:-1], around[3:]
    t = (np.arange(PIECES) / PIECES)[None, :, None]
    cubic = 0.5 * (
        2.0 * a[:, None]
        + (b - before)[:, None] * t
        + (2.0 * before - 5.0 * a + 4.0 * b - after)[:, None] * t**2
        + (3.0 * a - before - 3.0 * b + after)[:, None] * t**3
    )
    line = cubic.reshape(-1, 2)
    return line if closed else np.concatenate([line, given[-1:]])


@dataclass(frozen=True)
class Outline:
    """A polygon (N, 2), or with `closed` False the line itself, which has no inside."""

    points: Points
    closed: bool = True

    @staticmethod
    def smooth(points: npt.ArrayLike, *, closed: bool = True) -> Outline:
        """Rounded through `points`."""
        return Outline(smooth_line(points, closed=closed), closed)

    def mirrored(self) -> Outline:
        """The same on the other side of x = 0."""
        return Outline(self.points * [-1.0, 1.0], self.closed)

    def distance(self, x: Any, y: Any, reach: float = float(FAR)) -> tuple[Window, Floats]:
        """Distance in mm of places x, y (H, W), negative inside, in the window that lies within `reach` of it.

        Windows are found from the places themselves, so x and y may be distorted.
        """
        low, high = self.points.min(axis=0) - reach, self.points.max(axis=0) + reach
        window = window_of(x, y, (low[0], high[0]), (low[1], high[1]))
        across, down = x[window], y[window]
        squared = np.full(across.shape, FAR * FAR, np.float32)
        inside = np.zeros(across.shape, bool)
        start = self.points
        end = np.roll(start, -1, axis=0)
        if not self.closed:
            start, end = start[:-1], end[:-1]
        for (ax, ay), (bx, by) in zip(start.astype(np.float32), end.astype(np.float32), strict=True):
            dx, dy = bx - ax, by - ay
            px, py = across - ax, down - ay
            length = max(float(dx * dx + dy * dy), 1e-9)
            t = np.clip((px * dx + py * dy) / np.float32(length), 0.0, 1.0)
            px -= t * dx
            py -= t * dy
            px *= px
            py *= py
            px += py
            np.minimum(squared, px, out=squared)
            if self.closed and ay != by:
                crosses = (down >= min(ay, by)) & (down < max(ay, by))
                inside ^= crosses & (across < ax + (down - ay) * (dx / dy))
        distance = np.sqrt(squared, out=squared)
        return window, np.where(inside, -distance, distance)


def window_of(x: Any, y: Any, across: tuple[float, float], down: tuple[float, float]) -> Window:
    """The smallest window (rows, columns) with all places of x, y (H, W) in a box; looked up on every eighth pixel."""
    step = max(1, min(8, min(x.shape) // 16))
    u, v = x[::step, ::step], y[::step, ::step]
    margin_x = 1.5 * step * float(np.abs(np.diff(x[0, :2])).max(initial=0.0)) + 0.5
    margin_y = 1.5 * step * float(np.abs(np.diff(y[:2, 0])).max(initial=0.0)) + 0.5
    hit = (u > across[0] - margin_x) & (u < across[1] + margin_x) & (v > down[0] - margin_y) & (v < down[1] + margin_y)
    rows, columns = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(0, (int(rows[0]) - 1) * step), min(x.shape[0], (int(rows[-1]) + 1) * step + 1)),
        slice(max(0, (int(columns[0]) - 1) * step), min(x.shape[1], (int(columns[-1]) + 1) * step + 1)),
    )
