"""Lung nodules: a ball whose margin follows malignancy and whose density follows texture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from medgen.phantoms.primitives import Floats, Grid, LatticeNoise, Window, coverage

GROUND_GLASS = -620.0  # HU at texture 1
SOLID = 38.0  # HU at texture 5


class NoduleCut(NamedTuple):
    """A nodule in one plane: the `window` of the grid it lies in, and there (h, w) arrays."""

    window: Window
    cover: Floats  # fraction of each pixel inside
    body: Floats  # the same without spicules: what a reader would outline
    values: Floats  # HU of its matter; between the extremes a solid core sits in ground glass


@dataclass(frozen=True)
class Nodule:
    """`malignancy` 1 (smooth, round) to 5 (lobulated, spiculated); `texture` 1 (ground glass) to 5 (solid)."""

    centre: tuple[float, float, float]
    diameter: float
    malignancy: float
    texture: float
    stretch: Floats = field(repr=False)  # (3,) radii relative to half the diameter
    lobes: int = field(repr=False)  # that many bumps are lobes of the body, the others are spicules
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
        lobes, spikes = int(rng.integers(4, 8)), round(worry * rng.uniform(30.0, 60.0))
        directions = rng.standard_normal((lobes + spikes, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        heights = np.concatenate([rng.normal(0.0, 0.02 + 0.16 * worry, lobes), worry * rng.uniform(0.1, 0.7, spikes)])
        widths = np.concatenate([rng.uniform(2.5, 7.0, lobes), rng.uniform(100.0, 350.0, spikes)])
        stretch = np.exp(rng.normal(0.0, 0.05 + 0.08 * worry, 3))
        return Nodule(
            centre,
            diameter,
            malignancy,
            texture,
            (stretch / stretch.max()).astype(np.float32),
            lobes,
            directions.astype(np.float32),
            heights.astype(np.float32),
            widths.astype(np.float32),
            LatticeNoise(rng, max(1.5, diameter / 9.0), extent=max(20.0, diameter * 2), depth=max(20.0, diameter * 2)),
        )

    @property
    def reach(self) -> float:
        """Largest distance in mm of any part of the nodule from its centre."""
        return 0.5 * self.diameter * (1.6 + float(np.maximum(self.bump_heights, 0.0).max(initial=0.0)))

    def cut(self, z: float, grid: Grid, softness: float) -> NoduleCut | None:
        """The nodule in the plane at z; None where the plane misses it."""
        x, y, height = self.centre
        window = grid.window((x - self.reach, x + self.reach), (y - self.reach, y + self.reach))
        places_x, places_y = grid.x[:, window[1]], grid.y[window[0]]
        if abs(z - height) > self.reach or not places_x.size or not places_y.size:
            return None
        body, whole = self._distances(places_x - np.float32(x), places_y - np.float32(y), z - height)
        solid = (self.texture - 1.0) / 4.0
        speckle = self.speckle.plane(z, places_x, places_y)
        depth = body * np.float32(-2.0 / self.diameter)  # 0 at the margin, about 1 in the middle
        core = np.clip((depth + 0.22 * speckle - (0.85 - 1.4 * solid)) * 5.0, 0.0, 1.0)
        veil = GROUND_GLASS + 350.0 * solid + 55.0 * speckle
        values = veil + (SOLID + 10.0 * speckle - veil) * core * solid**0.5
        edge = softness + 2.0 * (1.0 - solid)  # ground glass fades out, solid matter ends sharply
        return NoduleCut(window, coverage(whole, edge), coverage(body, edge), values)

    def _distances(self, x: Floats, y: Floats, up: float) -> tuple[Floats, Floats]:
        """Radial distances (h, w) to the margin of the body, and to that with its spicules."""
        scale = 2.0 / (self.diameter * self.stretch)
        x, y, up = x * scale[0], y * scale[1], np.float32(up) * scale[2]
        rho = np.sqrt(x * x + y * y + up * up)  # 1 on the ball
        inverse = 1.0 / np.maximum(rho, np.float32(1e-3))
        margin = np.ones_like(rho)
        radius = np.float32(0.5 * self.diameter)
        body = rho
        for number, (direction, height, width) in enumerate(
            zip(self.bumps, self.bump_heights, self.bump_widths, strict=True), 1
        ):
            cosine = (x * direction[0] + y * direction[1] + up * direction[2]) * inverse
            margin += height * np.exp(width * (cosine - 1.0))
            if number == self.lobes:
                body = (rho - margin) * radius
        return body, (rho - margin) * radius
