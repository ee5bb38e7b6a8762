"""A CT scanner: acquires thin planes of the anatomy, blurred and noisy, and makes slices of any thickness from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.phantoms.chest.anatomy import ChestAnatomy
from medgen.phantoms.primitives import Floats, Grid

EXTRA_PLANES = 6  # planes a slice that a step of whole planes may cost


@dataclass(frozen=True)
class ScanSeries:
    """A series: `count` slices, `step` mm from centre to centre about `middle`, each the mean over `thickness` mm."""

    middle: float
    count: int
    step: float
    thickness: float

    @property
    def heights(self) -> npt.NDArray[np.float64]:
        """(D,) z of the slices' centres, mm."""
        return self.middle + (np.arange(self.count, dtype=np.float64) + 0.5 - 0.5 * self.count) * self.step

    def pitch(self, limit: float) -> float:
        """A distance of planes up to `limit`: a whole number a slice and, where that costs little, a step too."""
        fewest = math.ceil(self.thickness / limit - 1e-6)
        for number in range(fewest, fewest + EXTRA_PLANES + 1):
            steps = self.step * number / self.thickness
            if abs(steps - round(steps)) < 1e-6:
                return self.thickness / number
        return self.thickness / fewest


@dataclass(frozen=True)
class Scanner:
    """How a patient was scanned, and how the slices look."""

    noise: float  # HU, standard deviation in the middle of a 5 mm slice of 0.75 mm pixels
    blur: float  # mm, standard deviation of the in-plane point spread
    grain: float  # mm, correlation length of the noise
    streaks: float  # HU, in a 5 mm slice

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

    def at_dose(self, noise: float) -> Scanner:
        """The same with `noise` times the noise."""
        return dataclasses.replace(self, noise=noise * self.noise, streaks=noise * self.streaks)

    def scan(
        self, seeds: Sequence[int], anatomy: ChestAnatomy, grid: Grid, series: Sequence[ScanSeries], limit: float
    ) -> tuple[list[Floats], list[npt.NDArray[np.bool_]]]:
        """Every series (D, H, W) in HU, from one acquisition, and the nodules' masks (K, D, H, W) in the first.

        Planes at most `limit` mm apart are acquired once. A slice is their mean, weighted by how much of each plane's
        layer lies within its thickness. So thick slices are means of thin ones, and their noise falls with
        1 / sqrt(thickness), as photon noise does.
        """
        pitch = series[0].pitch(limit)
        bottom = float(series[0].heights[0]) - 0.5 * series[0].thickness
        low = min(float(one.heights[0]) - 0.5 * one.thickness for one in series)
        high = max(float(one.heights[-1]) + 0.5 * one.thickness for one in series)
        numbers = np.arange(math.floor((low - bottom) / pitch + 1e-6), math.ceil((high - bottom) / pitch - 1e-6))
        centres = bottom + (numbers.astype(np.float64) + 0.5) * pitch
        weights = [_weights(one, centres, pitch) for one in series]
        images = [np.zeros((one.count, grid.size, grid.size), np.float32) for one in series]
        covers = np.zeros((len(anatomy.nodules), *images[0].shape), np.float32)
        for column, (number, z) in enumerate(zip(numbers, centres, strict=True)):
            users = [np.flatnonzero(weight[:, column]) for weight in weights]
            if not any(map(len, users)):
                continue
            plane, shares = anatomy.plane(float(z), grid)
            plane = ndimage.gaussian_filter(plane, self.blur / grid.pixel, truncate=3.0)
            plane += self._noise(np.random.default_rng([*seeds, int(number) % (1 << 32)]), plane, pitch, grid)
            for image, weight, levels in zip(images, weights, users, strict=True):
                for level in levels:
                    image[level] += weight[level, column] * plane
            for level in users[0]:
                for cover, share in zip(covers, shares, strict=True):
                    cover[level] += weights[0][level, column] * share
        return images, list(covers > 0.5)

    def _noise(self, rng: np.random.Generator, image: Floats, thickness: float, grid: Grid) -> Floats:
        """Correlated noise, strongest behind thick tissue; streaks run between the shoulders."""
        sigma = self.grain / grid.pixel
        white = rng.standard_normal(image.shape, dtype=np.float32)
        grain = ndimage.gaussian_filter(white, sigma, truncate=2.5, mode="wrap") if sigma > 0.3 else white
        grain *= np.float32(1.0 / max(float(grain.std()), 1e-6))
        tissue = np.clip((image + 1000.0) / 1000.0, 0.0, 1.6)
        across, along = tissue.mean(axis=1, keepdims=True), tissue.mean(axis=0, keepdims=True)
        path = np.sqrt(across * along) * 1.6 + 0.25  # about 1 in the middle
        thinness = np.sqrt(5.0 / thickness)
        noise = grain * (self.noise * thinness * min(1.2, 0.75 / grid.pixel) ** 0.7 * path)
        rows = ndimage.gaussian_filter1d(rng.standard_normal((grid.size, 1), dtype=np.float32), 0.8, axis=0)
        noise += self.streaks * thinness * rows * np.clip(across - 0.55, 0.0, 1.0) * 3.0
        return cast(Floats, noise.astype(np.float32))


def _weights(series: ScanSeries, centres: npt.NDArray[np.float64], pitch: float) -> Floats:
    """(D, P) share of each plane's layer in each slice; rows sum to 1."""
    far = np.abs(series.heights[:, None] - centres)
    shares = np.clip(0.5 * (series.thickness + pitch) - far, 0.0, min(series.thickness, pitch))
    shares[shares < 1e-6 * pitch] = 0.0
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)
