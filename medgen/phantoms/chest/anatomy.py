"""One person's chest in HU, continuous in mm: any plane can be computed at any pixel size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgen.phantoms.chest.bones import ChestBones
from medgen.phantoms.chest.nodules import Nodule
from medgen.phantoms.chest.shapes import ChestShapes
from medgen.phantoms.chest.vessels import ChestVessels
from medgen.phantoms.primitives import Floats, Grid, LatticeNoise, Tubes, Window, coverage, paint, superellipse

AIR = -1000.0
FAT = -102.0
SOFTNESS = 0.7  # mm, the softness of tissue's own edges


@dataclass(frozen=True)
class Tissue:
    """HU of one person's tissues; blood by vessel, since contrast medium does not reach all equally."""

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
class Cut:
    """One plane through a chest: distance maps and noise, each (H, W), and the `image` in HU being painted."""

    z: float
    grid: Grid
    softness: float
    image: Floats
    body: Floats
    muscle: Floats
    cavity: Floats
    lungs: Floats
    heart: Floats
    diaphragm: Floats
    fine: Floats
    medium: Floats
    broad: Floats

    def cover(self, distance: Floats, inset: float = 0.0) -> Floats:
        """Fraction of each pixel that lies more than `inset` mm inside a shape."""
        return coverage(distance + np.float32(inset) if inset else distance, self.softness)

    def tubes(self, tubes: Tubes, reach: float = 0.0) -> tuple[Window, Floats]:
        """Distance to tubes, in the window they are cut in."""
        return tubes.distance(self.z, self.grid, max(reach, self.softness))


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
    stomach: tuple[float, float]  # x and y of its middle
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
            stomach=(rng.uniform(45.0, 75.0), rng.uniform(-40.0, -10.0)),
            table_y=shapes.back + rng.uniform(0.5, 5.0),
        )

    def plane(self, z: float, grid: Grid) -> tuple[Floats, list[Floats]]:
        """HU (H, W) in the plane at z, and the share of each pixel that each nodule's body takes (H, W)."""
        cut = self._cut(z, grid)
        image = cut.image
        self._table(cut)
        paint(image, np.float32(15.0), cut.cover(cut.body))  # skin
        paint(image, FAT + 5.0 * cut.medium + 8.0 * np.maximum(cut.broad, 0.0), cut.cover(cut.body, 2.0))
        self._flesh(cut)
        paint(image, FAT + 14.0 + 10.0 * cut.medium, cut.cover(cut.cavity, 1.0))
        self._belly(cut)
        self._heart(cut)
        self.bones.paint(image, z, grid, cut.softness, cut.cavity, cut.muscle)
        airy = cut.cover(cut.lungs)
        self._lungs(cut, airy)
        airy *= 1.0 - self._great_vessels(cut)
        covers = []
        for nodule in self.nodules:
            outlined = np.zeros_like(image)
            part = nodule.cut(z, grid, cut.softness)
            if part is not None:
                free = airy[part.window]
                paint(image[part.window], part.values, part.cover * free)
                outlined[part.window] = part.body * free
            covers.append(outlined)
        return image, covers

    def _cut(self, z: float, grid: Grid) -> Cut:
        surfaces = self.shapes.surfaces(grid.coarse.x, grid.coarse.y, np.float32(z))
        return Cut(
            z,
            grid,
            max(SOFTNESS, grid.pixel),
            np.full((grid.size, grid.size), AIR, np.float32),
            *grid.refine(np.stack(surfaces).astype(np.float32)),
            *(noise.plane(z, grid.x, grid.y) for noise in (self.fine, self.medium, self.broad)),
        )

    def _table(self, cut: Cut) -> None:
        """A shell of carbon fibre, hollow upwards, filled with foam."""
        rows, columns = cut.grid.window((-205.0, 205.0), (self.table_y - 25.0, self.table_y + 45.0))
        part = cut.image[rows, columns]
        x = cut.grid.x[:, columns]
        depth = cut.grid.y[rows] - (self.table_y + 8.0 - 0.00035 * x**2)
        under = depth - 20.0 + 0.00025 * x**2
        paint(part, np.float32(-930.0), cut.cover(np.maximum(-depth, under)))
        paint(part, np.float32(-250.0), cut.cover(np.minimum(np.abs(depth) - 1.0, np.abs(under) - 0.8)))

    def _flesh(self, cut: Cut) -> None:
        """Muscles of the chest wall: two layers with fat in and between them."""
        paint(cut.image, np.float32(self.tissue.muscle) + 8.0 * cut.medium, cut.cover(cut.muscle))
        between = np.abs(0.55 * cut.muscle + 0.45 * cut.cavity - 2.0 * cut.medium - 3.0 * cut.broad)
        seam = np.clip(1.3 - between / 2.2, 0.0, 1.0) * np.clip(0.8 + cut.broad, 0.0, 1.0)
        marbling = np.clip(1.2 * cut.broad + 0.9 * cut.medium - 1.25, 0.0, 1.0)
        wall = cut.cover(cut.muscle, 1.5) * cut.cover(-cut.cavity, 2.0)
        paint(cut.image, np.float32(FAT + 15.0), np.maximum(seam, marbling) * wall)

    def _belly(self, cut: Cut) -> None:
        """Liver on the right, spleen and stomach on the left, under the diaphragm."""
        below = cut.cover(cut.diaphragm, 2.0) * cut.cover(cut.cavity, 1.0)
        if not below.any():
            return
        x, y = cut.grid.x, cut.grid.y
        liver = np.float32(self.tissue.liver)
        paint(cut.image, np.where(x < 18.0, liver, liver - np.float32(8.0)) + 3.0 * cut.medium, below)
        middle = (x > 18.0) & (x < 85.0)
        paint(cut.image, np.float32(FAT + 10.0), below * middle * np.clip(2.0 * cut.broad + 0.3, 0.0, 1.0))
        stomach = superellipse(x - self.stomach[0], y - self.stomach[1], 34.0, 26.0) + 4.0 * cut.broad
        filling = np.where(y < self.stomach[1] - 2.0, np.float32(-960.0), np.float32(20.0))  # a bubble above water
        paint(cut.image, filling, cut.cover(stomach) * below)

    def _heart(self, cut: Cut) -> None:
        """Muscle around two chambers; with contrast medium the chambers are brighter."""
        x, y, _ = self.shapes.heart
        rows, columns = cut.grid.window((x - 80.0, x + 80.0), (y - 80.0, y + 80.0))
        part, heart = cut.image[rows, columns], cut.heart[rows, columns]
        broad, medium = cut.broad[rows, columns], cut.medium[rows, columns]
        paint(part, np.float32(55.0), cut.cover(heart))
        chambers = coverage(heart + np.float32(6.0) + 5.0 * broad, 4.0)
        across = 0.8 * (cut.grid.x[:, columns] - x) + 0.6 * (cut.grid.y[rows] - y) + 9.0 * broad
        septum = np.clip(1.5 - np.abs(across) / 5.0, 0.0, 1.0) * coverage(heart + np.float32(10.0), 12.0)
        paint(part, np.float32(self.tissue.heart) + 4.0 * medium, chambers * (1.0 - 0.8 * septum))

    def _lungs(self, cut: Cut, airy: Floats) -> None:
        """Air with fine structure, denser towards the back, and vessels."""
        tissue = np.float32(self.tissue.lung) + 0.25 * cut.grid.y + 12.0 * cut.fine + 14.0 * cut.medium
        paint(cut.image, tissue + 18.0 * cut.broad, airy)
        window, distance = cut.tubes(self.vessels.lung)
        blood = cut.cover(distance) * airy[window]
        paint(cut.image[window], np.float32(0.6 * self.tissue.pulmonary + 15.0), blood)

    def _great_vessels(self, cut: Cut) -> Floats:
        """Vessels and airways that may bulge into the lungs; their coverage (H, W)."""
        total = np.zeros_like(cut.image)
        outside = 1.0 - cut.cover(cut.heart)
        vessels, tissue = self.vessels, self.tissue
        for tubes, value in (
            (vessels.oesophagus, 38.0),
            (vessels.veins, tissue.veins),
            (vessels.pulmonary, tissue.pulmonary),
            (vessels.aorta, tissue.aorta),
        ):
            window, distance = cut.tubes(tubes, reach=2.0)
            whole = cut.cover(distance, -1.0)
            paint(cut.image[window], np.float32(30.0), whole * outside[window])  # a thin wall
            paint(cut.image[window], np.float32(value), cut.cover(distance))
            np.maximum(total[window], whole, out=total[window])
        for tubes, wall in ((vessels.airways, 1.5), (vessels.bronchi, 0.8)):
            window, distance = cut.tubes(tubes)
            whole = cut.cover(distance)
            paint(cut.image[window], np.float32(10.0), whole * outside[window])
            paint(cut.image[window], np.float32(-985.0), cut.cover(distance, wall) * outside[window])
            np.maximum(total[window], whole, out=total[window])
        return total
