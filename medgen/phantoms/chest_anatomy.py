"""One person's chest in HU, continuous in mm: ask for any plane at any pixel size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgen.phantoms.chest_bones import ChestBones
from medgen.phantoms.chest_shapes import ChestShapes
from medgen.phantoms.chest_vessels import ChestVessels
from medgen.phantoms.nodules import Nodule
from medgen.phantoms.primitives import Floats, Grid, LatticeNoise, coverage, paint, superellipse

AIR = -1000.0
FAT = -102.0
SOFTNESS = 0.7  # mm, the softest edge that tissue has by itself


@dataclass(frozen=True)
class Tissue:
    """HU of one person's tissues; blood by vessel, since contrast medium does not reach all alike."""

    lung: float
    muscle: float
    heart: float
    aorta: float
    veins: float
    pulmonary: float
    liver: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Tissue:
        """Half of the people get contrast medium."""
        contrast = rng.random() < 0.5
        aorta = rng.uniform(150.0, 320.0) if contrast else rng.uniform(36.0, 46.0)
        return Tissue(
            lung=rng.uniform(-890.0, -820.0),
            muscle=rng.uniform(48.0, 62.0),
            heart=0.8 * aorta + 12.0 if contrast else 42.0,
            aorta=aorta,
            veins=rng.uniform(0.5, 1.4) * aorta if contrast else aorta,
            pulmonary=rng.uniform(0.9, 1.3) * aorta if contrast else aorta,
            liver=rng.uniform(85.0, 115.0) if contrast else rng.uniform(48.0, 64.0),
        )


@dataclass(frozen=True)
class ChestAnatomy:
    """Everything in one chest."""

    shapes: ChestShapes
    bones: ChestBones
    vessels: ChestVessels
    tissue: Tissue
    fine: LatticeNoise  # about 2 mm
    medium: LatticeNoise  # about 5 mm
    broad: LatticeNoise  # about 25 mm
    table_y: float
    nodules: tuple[Nodule, ...] = ()

    @staticmethod
    def draw(rng: np.random.Generator) -> ChestAnatomy:
        """A random person, without nodules."""
        shapes = ChestShapes.draw(rng)
        return ChestAnatomy(
            shapes=shapes,
            bones=ChestBones.draw(rng, shapes),
            vessels=ChestVessels.draw(rng, shapes),
            tissue=Tissue.draw(rng),
            fine=LatticeNoise(rng, 1.8, extent=120.0, depth=60.0),
            medium=LatticeNoise(rng, 4.5, extent=200.0, depth=120.0),
            broad=LatticeNoise(rng, 25.0),
            table_y=shapes.cavity_y + shapes.wall * 0.7 + 0.75 * shapes.fat + rng.uniform(4.0, 9.0),
        )

    def plane(self, z: float, grid: Grid) -> tuple[Floats, list[Floats]]:
        """HU (H, W) in the plane at z, and each nodule's coverage (H, W) in it."""
        softness = max(SOFTNESS, grid.pixel)
        x, y = grid.coarse.x, grid.coarse.y
        shapes, tissue = self.shapes, self.tissue
        body, muscle, cavity, lungs, heart, diaphragm = grid.refine(
            np.stack(
                [
                    shapes.body(x, y, z),
                    shapes.muscle(x, y, z),
                    shapes.cavity(x, y, z),
                    shapes.lungs(x, y, z),
                    shapes.heart_surface(x, y, z),
                    shapes.diaphragm(x, y, z),
                ]
            ).astype(np.float32)
        )
        fine, medium, broad = (noise.plane(z, grid.x, grid.y) for noise in (self.fine, self.medium, self.broad))
        image = np.full((grid.size, grid.size), AIR, np.float32)
        self._table(image, grid, softness)
        inside = coverage(body, softness)
        paint(image, 15.0, inside)  # skin
        paint(image, FAT + 5.0 * medium + 8.0 * np.maximum(broad, 0.0), coverage(body + np.float32(2.0), softness))
        self._flesh(image, muscle, cavity, medium, broad, softness)
        paint(image, FAT + 14.0 + 10.0 * medium, coverage(cavity + np.float32(1.0), softness))
        self._belly(image, cavity, diaphragm, grid, z, medium, broad, softness)
        self._heart(image, heart, grid, broad, medium, softness)
        for tubes, value in (
            (self.vessels.oesophagus, 38.0),
            (self.vessels.veins, tissue.veins),
            (self.vessels.pulmonary, tissue.pulmonary),
            (self.vessels.aorta, tissue.aorta),
        ):
            paint(image, np.float32(value), coverage(tubes.distance(z, grid, softness), softness))
        self.bones.paint(image, z, grid, softness, cavity)
        self._lungs(image, lungs, cavity, grid, z, fine, medium, broad, softness)
        covers = []
        airy = coverage(lungs, softness)
        for nodule in self.nodules:
            cover = nodule.coverage(z, grid, softness) * airy
            paint(image, nodule.values(z, grid), cover)
            covers.append(cover)
        return image, covers

    def _table(self, image: Floats, grid: Grid, softness: float) -> None:
        bow = self.table_y + 0.00035 * grid.x**2 * -1.0 + 6.0
        across = np.abs(grid.x) - 205.0
        depth = grid.y - bow
        top = np.maximum(np.abs(depth - 2.0) - 1.0, across)
        under = np.maximum(np.abs(depth - 22.0 - 0.0006 * grid.x**2 * -1.0) - 0.8, across)
        foam = np.maximum(np.abs(depth - 12.0) - 9.0, across)
        paint(image, np.float32(-930.0), coverage(foam.astype(np.float32), softness))
        paint(image, np.float32(-250.0), coverage(np.minimum(top, under).astype(np.float32), softness))

    def _flesh(
        self, image: Floats, muscle: Floats, cavity: Floats, medium: Floats, broad: Floats, softness: float
    ) -> None:
        """Muscles of the chest wall: two layers with fat in and between them."""
        value = np.float32(self.tissue.muscle) + 8.0 * medium
        paint(image, value, coverage(muscle, softness))
        between = np.abs(
            muscle + 0.45 * (cavity - muscle) * -1.0 - 2.0 * medium - 3.0 * broad
        )  # halfway through the wall
        wall = coverage(-(cavity - np.float32(2.0)), softness) * coverage(muscle + np.float32(1.5), softness)
        seam = np.clip(1.3 - between / 2.2, 0.0, 1.0)
        marbling = np.clip(1.2 * broad + 0.9 * medium - 1.25, 0.0, 1.0)
        paint(image, FAT + 15.0, np.maximum(seam * np.clip(0.8 + broad, 0.0, 1.0), marbling) * wall)

    def _belly(
        self,
        image: Floats,
        cavity: Floats,
        diaphragm: Floats,
        grid: Grid,
        z: float,
        medium: Floats,
        broad: Floats,
        softness: float,
    ) -> None:
        """Liver on the right, spleen and stomach on the left, under the diaphragm."""
        below = coverage(diaphragm + np.float32(2.0), 2 * softness) * coverage(cavity + np.float32(1.0), softness)
        if not below.any():
            return
        organ = (
            np.where(grid.x < 18.0, np.float32(self.tissue.liver), np.float32(self.tissue.liver - 8.0)) + 3.0 * medium
        )
        paint(image, organ, below)
        side = (grid.x > 18.0) & (np.abs(grid.x - 25.0) < 60.0)
        paint(image, FAT + 10.0, below * side * np.clip(2.0 * broad + 0.3, 0.0, 1.0))
        stomach = superellipse(grid.x - 58.0, grid.y + 22.0, 34.0, 26.0, 2.0).astype(np.float32)
        within = coverage(stomach + 4.0 * broad, softness) * below
        paint(image, np.where(grid.y < -24.0, np.float32(-960.0), np.float32(20.0)), within)

    def _heart(self, image: Floats, heart: Floats, grid: Grid, broad: Floats, medium: Floats, softness: float) -> None:
        """Muscle around chambers; with contrast medium the chambers are brighter."""
        paint(image, np.float32(55.0), coverage(heart, softness))
        chambers = coverage(heart + np.float32(6.0) + 5.0 * broad, 4.0)
        wall = np.abs(0.8 * (grid.x - self.shapes.heart[0]) + 0.6 * (grid.y - self.shapes.heart[1]) + 9.0 * broad)
        septum = np.clip(1.5 - wall / 5.0, 0.0, 1.0) * coverage(heart + np.float32(10.0), 12.0)
        paint(image, np.float32(self.tissue.heart) + 4.0 * medium, chambers * (1.0 - 0.8 * septum))

    def _lungs(
        self,
        image: Floats,
        lungs: Floats,
        cavity: Floats,
        grid: Grid,
        z: float,
        fine: Floats,
        medium: Floats,
        broad: Floats,
        softness: float,
    ) -> None:
        """Air, denser towards the back, with airways and vessels."""
        airy = coverage(lungs, softness)
        tissue = np.float32(self.tissue.lung) + 0.25 * grid.y + 12.0 * fine + 14.0 * medium + 18.0 * broad
        paint(image, tissue.astype(np.float32), airy)
        blood = coverage(self.vessels.lung.distance(z, grid, softness), softness)
        paint(image, np.float32(0.6 * self.tissue.pulmonary + 15.0), blood * airy)
        airways = self.vessels.airways
        reached = airways.distance(z, grid, softness)
        paint(image, np.float32(20.0), coverage(reached, softness))
        paint(image, np.float32(-985.0), coverage(reached + np.float32(1.3), softness))
