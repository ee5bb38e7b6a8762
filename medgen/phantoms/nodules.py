"""Lung nodules: a ball whose margin follows malignancy and whose density follows texture."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from medgen.phantoms.primitives import Floats, Grid, LatticeNoise, coverage

GROUND_GLASS = -620.0  # HU at texture 1
SOLID = 38.0  # HU at texture 5


@dataclass(frozen=True)
class Nodule:
    """`malignancy` 1 (smooth, round) to 5 (lobulated, spiculated); `texture` 1 (ground glass) to 5 (solid)."""

    centre: tuple[float, float, float]
    diameter: float
    malignancy: float
    texture: float
    stretch: Floats = field(repr=False)  # (3,) radii relative to half the diameter
    bumps: Floats = field(repr=False)  # (K, 3) unit directions
    bump_heights: Floats = field(repr=False)  # (K,) relative to the radius
    bump_widths: Floats = field(repr=False)  # (K,) larger is narrower
    speckle: LatticeNoise = field(repr=False)

    @staticmethod
    def draw(
        rng: np.random.Generator, centre: tuple[float, float, float], diameter: float, malignancy: float, texture: float
    ) -> Nodule:
        """A nodule with a random margin of the given nature."""
        worry = (malignancy - 1.0) / 4.0
        lobes = rng.integers(4, 8)
        spikes = int(round(worry * rng.uniform(10, 22)))
        directions = rng.standard_normal((lobes + spikes, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        heights = np.concatenate(
            [
                rng.normal(0.0, 0.02 + 0.16 * worry, lobes),
                rng.uniform(0.15, 0.6, spikes) * worry,
            ]
        )
        widths = np.concatenate([rng.uniform(2.5, 7.0, lobes), rng.uniform(45.0, 140.0, spikes)])
        stretch = np.exp(rng.normal(0.0, 0.05 + 0.08 * worry, 3))
        return Nodule(
            centre,
            diameter,
            malignancy,
            texture,
            (stretch / stretch.max()).astype(np.float32),
            directions.astype(np.float32),
            heights.astype(np.float32),
            widths.astype(np.float32),
            LatticeNoise(rng, max(1.5, diameter / 9.0), extent=max(20.0, diameter * 2), depth=max(20.0, diameter * 2)),
        )

    @property
    def reach(self) -> float:
        """No part of the nodule is farther from its centre, in mm."""
        return 0.5 * self.diameter * (1.6 + float(np.maximum(self.bump_heights, 0.0).max(initial=0.0)))

    def _window(self, grid: Grid) -> tuple[slice, slice]:
        x, y, _ = self.centre
        return grid.window((x - self.reach, x + self.reach), (y - self.reach, y + self.reach))

    def distance(self, z: float, grid: Grid) -> Floats:
        """Radial distance (h, w) to the margin in the plane at z, for the window around the nodule."""
        rows, columns = self._window(grid)
        scale = 2.0 / (self.diameter * self.stretch)
        x = (grid.x[:, columns] - self.centre[0]) * scale[0]
        y = (grid.y[rows] - self.centre[1]) * scale[1]
        up = np.float32(z - self.centre[2]) * scale[2]
        rho = np.sqrt(x * x + y * y + up * up)  # 1 on the ball
        margin = np.ones_like(rho)
        safe = np.maximum(rho, np.float32(1e-3))
        for direction, height, width in zip(self.bumps, self.bump_heights, self.bump_widths, strict=True):
            cosine = (x * direction[0] + y * direction[1] + up * direction[2]) / safe
            margin += height * np.exp(width * (cosine - 1.0))
        return ((rho - margin) * np.float32(0.5 * self.diameter)).astype(np.float32)

    def coverage(self, z: float, grid: Grid, softness: float) -> Floats:
        """(H, W) fraction of each pixel inside; ground glass fades out, solid matter ends sharply."""
        out = np.zeros((grid.size, grid.size), np.float32)
        if abs(z - self.centre[2]) > self.reach:
            return out
        faint = (5.0 - self.texture) / 4.0
        out[self._window(grid)] = coverage(self.distance(z, grid), softness + 2.0 * faint)
        return out

    def values(self, z: float, grid: Grid) -> Floats:
        """HU (H, W) of its matter; between the extremes a solid core sits in ground glass."""
        out = np.full((grid.size, grid.size), SOLID, np.float32)
        if abs(z - self.centre[2]) > self.reach:
            return out
        window = self._window(grid)
        solid = (self.texture - 1.0) / 4.0
        speckle = self.speckle.plane(z, grid.x[:, window[1]], grid.y[window[0]])
        depth = -self.distance(z, grid) * np.float32(2.0 / self.diameter)  # 0 at the margin, about 1 in the middle
        core = np.clip((depth + 0.22 * speckle - (0.85 - 1.05 * solid)) * 5.0, 0.0, 1.0)
        veil = GROUND_GLASS + (350.0 * solid + 55.0 * speckle)
        out[window] = veil + (SOLID + 10.0 * speckle - veil) * core * solid**0.5
        return out
