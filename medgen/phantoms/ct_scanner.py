"""A CT scanner: averages the anatomy over each slice's thickness, blurs it, and adds noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.phantoms.chest_anatomy import ChestAnatomy
from medgen.phantoms.primitives import Floats, Grid

SUBSLICE = 1.7  # mm; planes averaged into one slice are no farther apart


@dataclass(frozen=True)
class Scanner:
    """How one series was acquired and reconstructed."""

    noise: float  # HU, standard deviation in the middle of a 5 mm slice of 0.75 mm pixels
    blur: float  # mm, standard deviation of the in-plane point spread
    grain: float  # mm, correlation length of the noise
    streaks: float  # HU

    @staticmethod
    def draw(rng: np.random.Generator) -> Scanner:
        """A random dose and reconstruction kernel; sharp kernels are noisy."""
        sharpness = rng.random()
        return Scanner(
            noise=rng.uniform(5.0, 11.0) * (1.0 + 1.2 * sharpness),
            blur=0.75 - 0.45 * sharpness,
            grain=0.85 - 0.35 * sharpness,
            streaks=rng.uniform(0.0, 5.0),
        )

    def slice(
        self, rng: np.random.Generator, anatomy: ChestAnatomy, z: float, thickness: float, grid: Grid
    ) -> tuple[Floats, list[npt.NDArray[np.bool_]]]:
        """One slice centred at z: HU (H, W) with noise, and the true mask (H, W) of each nodule."""
        count = max(1, int(np.ceil(thickness / SUBSLICE - 1e-6)))
        image = np.zeros((grid.size, grid.size), np.float32)
        covers = [np.zeros_like(image) for _ in anatomy.nodules]
        for position in (np.arange(count) + 0.5) / count - 0.5:
            plane, shares = anatomy.plane(z + float(position) * thickness, grid)
            image += plane
            for cover, share in zip(covers, shares, strict=True):
                cover += share
        image /= count
        image = ndimage.gaussian_filter(image, self.blur / grid.pixel, truncate=3.0)
        image += self._noise(rng, image, thickness, grid)
        return image, [cover > 0.5 * count for cover in covers]

    def _noise(self, rng: np.random.Generator, image: Floats, thickness: float, grid: Grid) -> Floats:
        """Correlated noise, strongest behind much tissue; streaks run between the shoulders."""
        sigma = self.grain / grid.pixel
        white = rng.standard_normal(image.shape, dtype=np.float32)
        grain = ndimage.gaussian_filter(white, sigma, truncate=2.5, mode="wrap") if sigma > 0.3 else white
        grain *= np.float32(1.0 / max(float(grain.std()), 1e-6))
        tissue = np.clip((image + 1000.0) / 1000.0, 0.0, 1.6)
        across, along = tissue.mean(axis=1, keepdims=True), tissue.mean(axis=0, keepdims=True)
        path = np.sqrt(across * along) * 1.6 + 0.25  # about 1 in the middle
        fineness = min(1.6, np.sqrt(5.0 / thickness)) * min(1.2, 0.75 / grid.pixel) ** 0.7
        noise = grain * (self.noise * fineness * path)
        rows = ndimage.gaussian_filter1d(rng.standard_normal((grid.size, 1), dtype=np.float32), 0.8, axis=0)
        noise += self.streaks * rows * np.clip(across - 0.55, 0.0, 1.0) * 3.0
        return cast(Floats, noise.astype(np.float32))
