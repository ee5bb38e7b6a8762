"""One eye's fundus without lesions: choroid, macula, disc, vessels. Lengths in mm; a right eye, the fovea at 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgen.phantoms.fundus.vessels import beside, draw_courses, draw_vessels
from medgen.phantoms.outlines import Points
from medgen.phantoms.pictures import tint
from medgen.phantoms.primitives import Floats, Grid, Harmonics, LatticeNoise, Tubes, coverage, superellipse

PIGMENTS = ((0.84, 0.46, 0.23), (0.80, 0.34, 0.12), (0.74, 0.29, 0.09), (0.62, 0.26, 0.11))  # from fair to dark
MACULAR = {"either": 0.6, "macula": 1.0, "disc": 0.0}  # share of the views that are centred on it
SOFT = 0.03  # mm, the softest edge


@dataclass(frozen=True)
class FundusView:
    """The circle of the retina that one photograph shows."""

    x: float
    y: float
    radius: float
    fill: float  # radius of the circle relative to half the picture; above 1 its top and bottom are cut off

    @staticmethod
    def draw(rng: np.random.Generator, disc: tuple[float, float], centre: str = "either") -> FundusView:
        """A random view, centred on the macula, as for screening, or on the disc."""
        macular = rng.random() < MACULAR[centre]
        x, y = (1.6, 0.0) if macular else disc
        return FundusView(
            x + rng.normal(0.0, 0.45),
            y + rng.normal(0.0, 0.4),
            rng.uniform(5.4, 6.6) if macular else rng.uniform(4.4, 5.8),
            rng.uniform(0.93, 0.99) if rng.random() < 0.7 else rng.uniform(1.02, 1.12),
        )

    def grid(self, size: int) -> Grid:
        """The places of the pixels of a square picture."""
        return Grid(size, 2.0 * self.radius / self.fill / size, self.x, self.y)

    def inside(self, x: float, y: float) -> bool:
        """Whether a place is in the circle and in the picture."""
        away = (x - self.x) ** 2 + (y - self.y) ** 2
        return away < (0.985 * self.radius) ** 2 and abs(y - self.y) < 0.985 * self.radius / self.fill


@dataclass(frozen=True)
class Eye:
    """The properties of an eye that stay the same from one photograph to the next."""

    disc: tuple[float, float]
    disc_radii: tuple[float, float]
    disc_waves: Harmonics
    cup: float  # radius relative to the disc
    cup_shift: float
    crescent: float  # mm of bare sclera beside the disc
    pigment: npt.NDArray[np.float32]
    tessellation: float  # how visible the choroid's vessels are
    macula: float  # how dark
    sheen: float  # of the nerve fibres, in the young
    arteries: list[Points]
    veins: list[Points]
    width: float  # mm, radius of the widest vein
    ratio: float  # of arteries to veins
    seed: int  # of the vessels' branches
    fine: LatticeNoise
    medium: LatticeNoise
    broad: LatticeNoise

    @staticmethod
    def draw(rng: np.random.Generator) -> Eye:
        """A random adult."""
        disc = (4.5 + rng.normal(0.0, 0.15), -0.35 + rng.normal(0.0, 0.12))
        arteries = draw_courses(rng, disc)
        fair = rng.uniform(0.0, len(PIGMENTS) - 1.001)
        shades = np.asarray(PIGMENTS, np.float32)
        mix = shades[int(fair)] + np.float32(fair % 1.0) * (shades[int(fair) + 1] - shades[int(fair)])
        return Eye(
            disc=disc,
            disc_radii=(rng.uniform(0.72, 0.88), rng.uniform(0.82, 1.0)),
            disc_waves=Harmonics.draw(rng, 0.02),
            cup=rng.uniform(0.2, 0.62),
            cup_shift=rng.uniform(0.0, 0.16),
            crescent=rng.uniform(0.05, 0.35) if rng.random() < 0.35 else 0.0,
            pigment=mix * rng.normal(1.0, 0.04, 3).astype(np.float32),
            tessellation=rng.uniform(0.15, 1.0) if rng.random() < 0.6 else 0.1,
            macula=rng.uniform(0.25, 0.6),
            sheen=rng.uniform(0.3, 1.0) if rng.random() < 0.4 else 0.0,
            arteries=arteries,
            veins=beside(rng, arteries),
            width=rng.uniform(0.08, 0.105),
            ratio=rng.uniform(0.62, 0.8),
            seed=int(rng.integers(1 << 31)),
            fine=LatticeNoise(rng, 0.09, extent=15.0, depth=0.0),
            medium=LatticeNoise(rng, 0.32, extent=20.0, depth=0.0),
            broad=LatticeNoise(rng, 1.7, extent=24.0, depth=0.0),
        )

    def vessels(self, view: FundusView) -> tuple[Tubes, Tubes]:
        """Veins and arteries in a view."""
        rng = np.random.default_rng(self.seed)
        return (
            draw_vessels(rng, self.disc, view.inside, self.veins, self.width),
            draw_vessels(rng, self.disc, view.inside, self.arteries, self.ratio * self.width),
        )

    def background(self, grid: Grid) -> Floats:
        """Choroid and pigment (H, W, 3)."""
        fine, medium, broad = (noise.plane(0.0, grid.x, grid.y) for noise in (self.fine, self.medium, self.broad))
        from_fovea = np.hypot(grid.x, 1.1 * grid.y)
        near_disc = np.exp(-(np.hypot(grid.x - self.disc[0], grid.y - self.disc[1]) ** 2) / 6.0)
        image = np.multiply.outer(1.0 + 0.02 * fine + 0.06 * broad + 0.10 * near_disc, self.pigment)
        choroid = 0.75 * np.tanh(1.2 * medium) + 0.6 * broad + 0.25 * fine
        choroid *= np.float32(self.tessellation) * np.clip(from_fovea / 2.5 - 0.3, 0.0, 1.0)
        image *= 1.0 + choroid[..., None] * np.array([0.05, 0.15, 0.10], np.float32)
        dark = np.exp(-((from_fovea / 1.25) ** 2)) + 0.5 * np.exp(-((from_fovea / 0.45) ** 2))
        image *= 1.0 - dark[..., None] * np.array([0.3, 0.55, 0.45], np.float32) * np.float32(self.macula)
        if self.sheen:
            x, y = grid.x - self.disc[0], grid.y - self.disc[1]
            away, angle = np.hypot(x, y), np.arctan2(y, x)
            streaks = 0.6 + 0.4 * np.sin(70.0 * angle + 3.0 * broad) + 0.5 * fine
            arcades = np.exp(-(((np.abs(angle) - 1.9) / 0.42) ** 2)) * np.exp(-(((away - 1.6) / 1.3) ** 2))
            tint(image, (0.80, 0.62, 0.36), np.clip(0.3 * self.sheen * streaks * arcades, 0.0, 0.5))
            rim = np.exp(-(((from_fovea - 0.95) / 0.12) ** 2)) * np.clip(broad, 0.0, 1.0)
            tint(image, (0.85, 0.70, 0.48), 0.25 * self.sheen * rim + 0.3 * np.exp(-((from_fovea / 0.07) ** 2)))
        painted: Floats = image.astype(np.float32)
        return painted

    def disc_distance(self, grid: Grid, scale: float = 1.0, shift: float = 0.0) -> Floats:
        """Distance (H, W) to the disc's rim, or to a part of it."""
        x, y = grid.x - self.disc[0] - shift, grid.y - self.disc[1]
        waves = 1.0 + self.disc_waves(np.arctan2(y, x), 0.0)
        distance: Floats = superellipse(x, y, *(scale * radius * waves for radius in self.disc_radii))
        return distance.astype(np.float32)

    def paint_disc(self, image: Floats, grid: Grid) -> Floats:
        """Paint disc and cup; the disc's distance map (H, W)."""
        rim = self.disc_distance(grid)
        if self.crescent:
            bare = coverage(self.disc_distance(grid, 1.0, -self.crescent), 0.12)
            tint(image, (0.86, 0.66, 0.40), 0.55 * bare)
        tint(image, 0.55 * self.pigment, 0.35 * np.exp(-(((rim - 0.08) / 0.10) ** 2)))
        tint(image, (1.0, 0.66, 0.28), coverage(rim, 0.10))
        nasal = np.clip((grid.x - self.disc[0]) / 0.8, 0.0, 1.0) + np.zeros_like(rim)
        tint(image, (0.93, 0.47, 0.22), 0.55 * nasal * coverage(rim, 0.10))
        cup = self.disc_distance(grid, self.cup, -self.cup_shift)
        tint(image, (1.0, 0.93, 0.54), 0.85 * coverage(cup, 0.30))
        return rim

    def paint_vessels(self, image: Floats, grid: Grid, vessels: tuple[Tubes, Tubes]) -> None:
        """Paint vessels: blood absorbs green and blue; arteries are brighter, with a reflex along them."""
        for tubes, absorbed, reflex in zip(
            vessels, ((0.40, 0.74, 0.60), (0.22, 0.60, 0.55)), (0.02, 0.08), strict=True
        ):
            window, distance = tubes.distance(0.0, grid, max(SOFT, grid.pixel))
            if not distance.size:
                continue
            inside = coverage(distance, max(SOFT, grid.pixel))
            depth = inside * (1.0 - 0.45 * np.exp(np.minimum(distance, 0.0) / 0.03))
            part = image[window]
            part *= 1.0 - depth[..., None] * np.array(absorbed, np.float32)
            tint(part, (0.95, 0.55, 0.35), reflex * np.clip(-distance / 0.03 - 0.6, 0.0, 1.0))

    def vessel_mask(self, grid: Grid, vessels: tuple[Tubes, Tubes]) -> npt.NDArray[np.bool_]:
        """Pixels (H, W) that an annotator marks: each vessel at least a pixel wide, so that none is broken."""
        mask = np.zeros((grid.size, grid.size), bool)
        for tubes in vessels:
            start, end = (np.maximum(r, np.float32(0.55 * grid.pixel)) for r in (tubes.radius_start, tubes.radius_end))
            window, distance = Tubes(tubes.start, tubes.end, start, end).distance(0.0, grid, grid.pixel)
            mask[window] |= distance < 0
        return mask
