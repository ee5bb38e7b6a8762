"""Surfaces of the chest as signed distances: body, chest cavity, mediastinum, heart, diaphragm, lungs.

z = 0 is the carina; apices lie near +95 mm, the lung bases near -110 mm. Every function takes broadcastable x, y, z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from medgen.phantoms.primitives import Harmonics, ellipsoid, smooth_max, smooth_min, superellipse


class Surfaces(NamedTuple):
    """Signed distances to the surfaces that bound the large organs."""

    body: Any
    muscle: Any
    cavity: Any
    lungs: Any
    heart: Any
    diaphragm: Any


@dataclass(frozen=True)
class ChestShapes:
    """One person's build, in mm; drawn by `draw`."""

    cavity_x: float
    cavity_y: float
    cavity_power: float
    fat: float
    wall: float
    breast: float  # 0 for none
    breast_x: float
    body_waves: Harmonics
    cavity_waves: Harmonics
    heart: tuple[float, float, float]
    heart_radii: tuple[float, float, float]
    heart_waves: Harmonics
    apex: float
    dome: tuple[float, float]  # z of the right and left dome of the diaphragm
    front_x: float  # where the lungs meet in front
    kyphosis: float
    sway: float

    @staticmethod
    def draw(rng: np.random.Generator) -> ChestShapes:
        """A random build."""
        build = rng.uniform(0.84, 1.10)
        dome = rng.uniform(-90.0, -62.0)
        breast = rng.uniform(8.0, 30.0) if rng.random() < 0.4 else 0.0
        size = rng.uniform(0.88, 1.12)
        return ChestShapes(
            cavity_x=132.0 * build * rng.uniform(0.96, 1.05),
            cavity_y=94.0 * build * rng.uniform(0.92, 1.10),
            cavity_power=rng.uniform(2.15, 2.6),
            fat=float(np.clip(rng.lognormal(np.log(12.0), 0.6), 4.0, 36.0)),
            wall=rng.uniform(17.0, 25.0),
            breast=breast,
            breast_x=rng.uniform(74.0, 98.0),
            body_waves=Harmonics.draw(rng, 0.012),
            cavity_waves=Harmonics.draw(rng, 0.014),
            heart=(rng.uniform(16.0, 26.0), rng.uniform(-32.0, -22.0), rng.uniform(-72.0, -60.0)),
            heart_radii=(56.0 * size, 44.0 * size, 52.0 * size),
            heart_waves=Harmonics.draw(rng, 0.03),
            apex=rng.uniform(88.0, 104.0),
            dome=(dome, dome - rng.uniform(8.0, 20.0)),
            front_x=rng.normal(-2.0, 5.0),
            kyphosis=rng.uniform(0.6, 1.4),
            sway=rng.normal(0.0, 4.0),
        )

    def spine_y(self, z: Any) -> Any:
        """Depth (y) of the middle of the vertebral bodies."""
        return self.cavity_y * 0.68 - self.kyphosis * 9.0 * ((z + 10.0) / 100.0) ** 2

    def spine_x(self, z: Any) -> Any:
        """Offset (x) of the spine: nobody is quite straight."""
        return self.sway * np.sin(z / 70.0)

    def front_y(self, z: Any) -> Any:
        """Depth (y) of the inner surface of the sternum."""
        return -self.cavity_y * self.profile(z) * 0.93

    def field_of_view(self, margin: float) -> float:
        """Side of a square that holds the body at the height of the heart, and `margin` mm more; at most 500 mm."""
        return float(min(500.0, 2.0 * (self.cavity_x + 1.1 * self.wall + 1.15 * self.fat) + margin))

    def profile(self, z: Any) -> Any:
        """Size of the cavity's cross-section relative to its widest."""
        up = np.clip((z - 5.0) / (self.apex + 12.0), 0.0, 0.97)
        down = np.clip((-z - 20.0) / 100.0, -0.2, 1.0)
        return np.sqrt(1.0 - up**2.6) + 0.05 * down

    def surfaces(self, x: Any, y: Any, z: Any) -> Surfaces:
        """All distances at once."""
        waves = self.cavity_waves(np.arctan2(y, x), z)
        cavity, diaphragm = self.cavity(x, y, z, waves), self.diaphragm(x, y, z)
        return Surfaces(
            body=self.body(x, y, z, waves),
            muscle=self.muscle(x, y, z, waves),
            cavity=cavity,
            lungs=self._lungs(x, y, z, cavity, diaphragm),
            heart=self.heart_surface(x, y, z),
            diaphragm=diaphragm,
        )

    def lungs(self, x: Any, y: Any, z: Any) -> Any:
        """Both lungs."""
        cavity = self.cavity(x, y, z, self.cavity_waves(np.arctan2(y, x), z))
        return self._lungs(x, y, z, cavity, self.diaphragm(x, y, z))

    def _lungs(self, x: Any, y: Any, z: Any, cavity: Any, diaphragm: Any) -> Any:
        """The cavity without the mediastinum and what lies under the diaphragm."""
        free = smooth_max(cavity, -self.mediastinum(x, y, z), 5.0)
        return np.maximum(smooth_max(free, -diaphragm, 4.0), z - self.apex)

    def cavity(self, x: Any, y: Any, z: Any, waves: Any) -> Any:
        """Inside of the ribs."""
        scale = self.profile(z)
        deep = 0.35 + 0.65 * scale  # the apex stays deep while it narrows
        waves = 1.0 + waves
        return superellipse(x, y, self.cavity_x * scale * waves, self.cavity_y * deep * waves, self.cavity_power)

    def muscle(self, x: Any, y: Any, z: Any, waves: Any) -> Any:
        """Outside of the muscles of the chest wall, which spread into shoulders at the top."""
        shoulder = np.clip((z + 30.0) / 110.0, 0.0, 1.3)
        waves = 1.0 + 0.7 * waves
        width = self.cavity_x + self.wall * (0.75 + 1.3 * shoulder)
        wall = superellipse(x, y - 9.0, width * waves, self.depth(shoulder) * waves, 2.3)
        furrow = np.exp(-((x / 14.0) ** 2)) * np.where(y > 0, 12.0, 4.0)
        return smooth_max(wall + furrow, y - self.back - 4.0 + 0.75 * self.fat, 16.0)

    def depth(self, shoulder: Any) -> Any:
        """Half the depth of the chest wall, from front to back."""
        return self.cavity_y + self.wall * (0.85 + 0.2 * shoulder)

    @property
    def back(self) -> float:
        """Depth (y) of the skin where the body lies on the table."""
        return self.cavity_y + 9.0 + 0.85 * self.wall + 0.55 * self.fat

    def body(self, x: Any, y: Any, z: Any, waves: Any) -> Any:
        """The skin."""
        shoulder = np.clip((z + 30.0) / 110.0, 0.0, 1.3)
        waves = 1.0 + 0.6 * waves + self.body_waves(np.arctan2(y, x), z)
        width = self.cavity_x + self.wall * (0.75 + 1.3 * shoulder) + 1.15 * self.fat
        depth = self.depth(shoulder) + 0.8 * self.fat
        body = superellipse(x, y - 9.0, width * waves, depth * waves, 2.25)
        body = body + 5.0 * np.exp(-((x / 20.0) ** 2)) * (y > 0)
        if self.breast:
            swell = np.exp(-(((z + 45.0) / 50.0) ** 2))
            side = np.abs(x) - self.breast_x
            bump = superellipse(side, y + 0.86 * self.cavity_y + 0.3 * self.fat, 56.0, 24.0 + self.breast * swell, 2.0)
            body = smooth_min(body, bump + 14.0 * (1.0 - swell), 30.0)
        return smooth_max(body, y - self.back, 22.0)

    def heart_surface(self, x: Any, y: Any, z: Any, grow: float = 0.0) -> Any:
        """Outside of the heart (with `grow` mm of fat around it): an ellipsoid tilted to the left."""
        dx, dy, dz = x - self.heart[0], y - self.heart[1], z - self.heart[2]
        turned = 0.83 * dx - 0.56 * dy - 0.18 * dz, 0.56 * dx + 0.83 * dy, dz + 0.18 * dx
        waves = 1.0 + self.heart_waves(np.arctan2(turned[1], turned[0]), z)
        a, b, c = (radius + grow for radius in self.heart_radii)
        return ellipsoid(*turned, (a * waves, b * waves, c))

    def mediastinum(self, x: Any, y: Any, z: Any) -> Any:
        """The space between the lungs: spine, great vessels and heart, wrapped in one smooth surface."""
        spine = superellipse(x - self.spine_x(z), y - self.spine_y(z) - 12.0, 21.0, 31.0, 2.3)
        low, high = np.clip(-z / 60.0, 0.0, 1.0), np.clip(z / 50.0, 0.0, 1.0)
        waves = 1.0 + 2.5 * self.heart_waves(np.arctan2(y, x), z)
        broad = (29.0 - 9.0 * low + 4.0 * high) * waves
        middle = superellipse(x - 2.0, y - 4.0 + 5.0 * high, broad, 0.44 * self.cavity_y, 2.2)
        front = self.front_y(z)
        taper = np.clip((y - front) / (0.9 * self.cavity_y), 0.0, 1.0)  # lungs nearly meet behind the sternum
        band = np.maximum(
            np.abs(x - self.front_x) - 2.5 - 22.0 * taper**1.2 - 8.0 * high, np.abs(y - front * 0.5) + 0.6 * front
        )
        union = smooth_min(smooth_min(spine, middle, 12.0), band, 14.0)
        return smooth_min(union, self.heart_surface(x, y, z, 2.5), 10.0)

    def diaphragm(self, x: Any, y: Any, z: Any) -> Any:
        """Negative below the two domes."""
        right = self.dome[0] - ((x + 66.0) / 78.0) ** 2 * 42.0 - ((y + 12.0) / 85.0) ** 2 * 58.0
        left = self.dome[1] - ((x - 70.0) / 78.0) ** 2 * 42.0 - ((y + 8.0) / 85.0) ** 2 * 58.0
        height = np.where(x < 0, right, left)
        return (z - height) * 0.8
