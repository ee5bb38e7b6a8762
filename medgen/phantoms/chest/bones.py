"""Ribs, sternum, spine and shoulder blades."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgen.phantoms.chest.shapes import ChestShapes
from medgen.phantoms.primitives import (
    Floats,
    Grid,
    LatticeNoise,
    Tubes,
    coverage,
    paint,
    smooth_max,
    superellipse,
)

VERTEBRA = 26.0  # mm from one vertebra to the next
DISC = 2.6  # mm, half the height of a disc


@dataclass(frozen=True)
class ChestBones:
    """The skeleton of one chest; `paint` draws its cross-section."""

    shapes: ChestShapes
    ribs: Tubes
    cartilage: Tubes
    processes: Tubes
    cortical: float  # HU
    spongy: float
    phase: float  # z of a disc
    blade: float  # mm between ribs and shoulder blade
    texture: LatticeNoise

    @staticmethod
    def draw(rng: np.random.Generator, shapes: ChestShapes) -> ChestBones:
        """A random skeleton that fits `shapes`."""
        phase = rng.uniform(0.0, VERTEBRA)
        ribs, cartilage, processes = [], [], []
        drop = rng.uniform(92.0, 118.0)
        for number in range(-6, 8):
            level = phase + VERTEBRA * number + 4.0
            for side in (-1.0, 1.0):
                bone, tip = _rib(shapes, level, side, drop + 4.0 * rng.standard_normal())
                ribs.append(bone)
                cartilage.append(tip)
            processes.extend(_processes(shapes, phase + VERTEBRA * (number + 0.45)))
        return ChestBones(
            shapes=shapes,
            ribs=Tubes.join(ribs),
            cartilage=Tubes.join(cartilage),
            processes=Tubes.join(processes),
            cortical=rng.uniform(650.0, 950.0),
            spongy=rng.uniform(110.0, 230.0),
            phase=phase,
            blade=rng.uniform(12.0, 15.0),
            texture=LatticeNoise(rng, 2.2, extent=180.0, depth=60.0),
        )

    def paint(self, image: Floats, z: float, grid: Grid, softness: float, cavity: Floats, muscle: Floats) -> None:
        """Draw all bones cut by the plane at z into `image` (H, W); `cavity` and `muscle` are distance maps."""
        texture = self.texture.plane(z, grid.x, grid.y)
        window, distance = self.cartilage.distance(z, grid, softness)
        paint(image[window], np.float32(90.0), coverage(distance, softness))
        window, distance = self.ribs.distance(z, grid, softness)
        self._shell(image[window], distance, softness, 1.3, texture[window])
        self._blades(image, z, grid, softness, cavity, muscle, texture)
        self._sternum(image, z, grid, softness, texture)
        self._spine(image, z, grid, softness, texture)

    def _shell(self, image: Floats, distance: Floats, softness: float, thick: float, texture: Floats) -> None:
        """A bone: cortical outside, spongy inside."""
        paint(image, np.float32(self.cortical), coverage(distance, softness))
        inner = coverage(distance + np.float32(thick), softness)
        paint(image, np.float32(self.spongy) + 28.0 * texture, inner)

    def _spine(self, image: Floats, z: float, grid: Grid, softness: float, texture: Floats) -> None:
        x0, y0 = float(self.shapes.spine_x(z)), float(self.shapes.spine_y(z))
        rows, columns = grid.window((x0 - 45.0, x0 + 45.0), (y0 - 25.0, y0 + 75.0))
        part = image[rows, columns]
        if not part.size:
            return
        x, y = grid.x[:, columns] - x0, grid.y[rows] - y0
        speckle = texture[rows, columns]
        within = ((z - self.phase) / VERTEBRA) % 1.0  # 0 in the middle of a disc
        from_disc = min(within, 1.0 - within) * VERTEBRA
        waist = 1.0 - 0.10 * np.sin(np.pi * within)
        body = superellipse(x, y, 17.5 * waist, 14.5 * waist, 2.5)
        canal = superellipse(x, y - 22.0, 10.0, 8.5)
        body = smooth_max(body, -(canal + 2.0), 2.0)
        ring = np.maximum(canal - 4.5, -canal - 0.5)
        if 0.30 < within < 0.95:
            self._shell(part, ring.astype(np.float32), softness, 1.2, speckle)
        window, distance = self.processes.distance(z, grid, softness)
        self._shell(image[window], distance, softness, 1.3, texture[window])
        inside = coverage(body.astype(np.float32), softness)
        if from_disc < DISC:
            paint(part, np.float32(85.0), inside)
        else:
            self._shell(part, body.astype(np.float32), softness, 1.2, speckle)
            plate = float(np.clip(1.0 - (from_disc - DISC) / 1.6, 0.0, 1.0))
            paint(part, np.float32(0.75 * self.cortical), inside * np.float32(0.6 * plate))
        paint(part, np.float32(25.0), coverage((canal + 1.0).astype(np.float32), softness))

    def _sternum(self, image: Floats, z: float, grid: Grid, softness: float, texture: Floats) -> None:
        y0 = float(self.shapes.front_y(z)) - 7.0
        rows, columns = grid.window((-40.0, 40.0), (y0 - 14.0, y0 + 14.0))
        part = image[rows, columns]
        if not part.size or not -105.0 < z < 75.0:
            return
        width = (
            19.0
            + 9.0 * float(np.clip((z - 30.0) / 30.0, 0.0, 1.0))
            - 5.0 * float(np.clip((-z - 50.0) / 40.0, 0.0, 1.0))
        )
        shape = superellipse(grid.x[:, columns], grid.y[rows] - y0, width, 5.5, 2.8)
        self._shell(part, shape.astype(np.float32), softness, 1.2, texture[rows, columns])

    def _blades(
        self, image: Floats, z: float, grid: Grid, softness: float, cavity: Floats, muscle: Floats, texture: Floats
    ) -> None:
        """Shoulder blades: thin plates that follow the ribs from behind, thick at their outer edge."""
        reach = float(np.clip((z + 75.0) / 110.0, 0.0, 1.0))
        if not reach > 0.0 or z > 90.0:
            return
        size_x, size_y = self.shapes.cavity_x, self.shapes.cavity_y
        outer_y = size_y * (0.70 - 0.45 * reach)
        for side in (-1.0, 1.0):
            span = (0.45 * size_x, 1.6 * size_x) if side > 0 else (-1.6 * size_x, -0.45 * size_x)
            rows, columns = grid.window(span, (outer_y - 10.0, 1.3 * size_y))
            part = image[rows, columns]
            if not part.size:
                continue
            x, y = grid.x[:, columns] * side, grid.y[rows]
            edge = np.clip((y - outer_y) / (0.9 * size_y - outer_y), 0.0, 1.0)  # 0 at the outer edge
            half = 1.8 + 3.4 * np.exp(-edge * 7.0) + 1.0 * np.exp(-(1.0 - edge) * 12.0)
            plate = np.abs(cavity[rows, columns] - self.blade - 13.0 * reach * (1.0 - edge)) - half
            plate = smooth_max(plate, outer_y - y, 3.0)
            plate = smooth_max(plate, 0.62 * size_x - x, 3.0)
            plate = smooth_max(plate, muscle[rows, columns] + 4.0, 3.0)
            self._shell(part, plate.astype(np.float32), softness, 1.2, texture[rows, columns])


def _rib(shapes: ChestShapes, level: float, side: float, drop: float) -> tuple[Tubes, Tubes]:
    """One rib from the spine around to the front, and the cartilage that joins it to the sternum."""
    t = np.linspace(0.0, 1.0, 30)
    angle = np.pi / 2 - (0.12 + 0.98 * t) * np.pi * 0.96  # from behind (y > 0) to the front
    z = level + 6.0 * np.sin(np.pi * np.clip(t * 4, 0, 1)) - drop * t**1.15
    scale = shapes.profile(z)
    radius_x, radius_y = shapes.cavity_x * scale, shapes.cavity_y * (0.35 + 0.65 * scale)
    cos, sin = np.cos(angle), np.sin(angle)
    power = shapes.cavity_power
    rho = (np.abs(cos / radius_x) ** power + np.abs(sin / radius_y) ** power) ** (-1.0 / power)
    rho = rho * (1.0 + shapes.cavity_waves(np.arctan2(sin, side * cos), z)) + 5.0
    x, y = side * rho * cos, rho * sin
    behind = np.clip(1.0 - t / 0.12, 0.0, 1.0) ** 2  # the neck bends to the vertebra
    x = x * (1.0 - behind) + (shapes.spine_x(z) + side * 21.0) * behind
    y = y * (1.0 - behind) + (shapes.spine_y(z) + 15.0) * behind
    points = np.stack([x, y, z], axis=1)
    size = 3.9 + 0.5 * np.sin(np.pi * t)
    bony = 24
    return Tubes.path(points[:bony], size[:bony], 1.5), Tubes.path(points[bony - 1 :], 4.2, 1.5)


def _processes(shapes: ChestShapes, z: float) -> list[Tubes]:
    """Spinous and transverse processes of the vertebra at z."""
    x, y = float(shapes.spine_x(z)), float(shapes.spine_y(z))
    back = [(x, y + 32.0, z), (x, y + 43.0, z - 10.0), (x, y + 51.0, z - 22.0)]
    parts = [Tubes.path(back, [4.0, 3.0, 3.4], 1.6)]
    for side in (-1.0, 1.0):
        line = [
            (x + side * 12.0, y + 24.0, z),
            (x + side * 24.0, y + 28.0, z + 1.0),
            (x + side * 33.0, y + 34.0, z + 3.0),
        ]
        parts.append(Tubes.path(line, [4.5, 3.8, 4.4], 1.6))
    return parts
