"""From attenuations to grey values: film or detector, exposure, blur, noise, and the maker's processing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.phantoms.primitives import Floats


@dataclass(frozen=True)
class XrayDetector:
    """How one X-ray was taken and processed."""

    noise: float  # relative standard deviation of the quanta behind an attenuation of 1
    blur: float  # mm, standard deviation
    grain: float  # mm, correlation length of the noise
    low: float  # attenuation that is shown black
    high: float  # ... and white
    gamma: float
    sharpen: float  # weight of unsharp masking
    stripes: float  # unevenness of columns in a scanning detector
    fog: float  # unevenness of film

    @staticmethod
    def draw(rng: np.random.Generator) -> XrayDetector:
        """A random detector: two thirds digital, one third scanned film."""
        film = rng.random() < 0.33
        return XrayDetector(
            noise=rng.uniform(0.012, 0.03) * (1.2 if film else 1.0),
            blur=rng.uniform(0.22, 0.38) if film else rng.uniform(0.10, 0.24),
            grain=rng.uniform(0.2, 0.35) if film else rng.uniform(0.08, 0.2),
            low=rng.uniform(0.42, 0.56),
            high=rng.uniform(2.35, 2.65),
            gamma=rng.uniform(0.9, 1.25),
            sharpen=0.0 if film else rng.uniform(0.0, 0.8),
            stripes=0.0 if film else rng.uniform(0.0, 0.006),
            fog=rng.uniform(0.01, 0.05) if film else 0.0,
        )

    def expose(self, rng: np.random.Generator, attenuation: Floats, pixel: float) -> Floats:
        """Attenuations (H, W) -> grey values (H, W) in [0, 1], dense is bright."""
        image = ndimage.gaussian_filter(attenuation, max(self.blur / pixel, 0.25), truncate=3.0)
        white = rng.standard_normal(image.shape, dtype=np.float32)
        sigma = self.grain / pixel
        grain = ndimage.gaussian_filter(white, sigma, truncate=2.5, mode="wrap") if sigma > 0.3 else white
        grain *= np.float32(1.0 / max(float(grain.std()), 1e-6))
        quanta = np.exp(0.55 * np.clip(image - 1.0, -0.8, 2.0))  # fewer quanta behind more matter
        image += np.float32(self.noise) * quanta * grain
        if self.stripes:
            columns = rng.standard_normal((1, image.shape[1]), dtype=np.float32)
            image += np.float32(self.stripes) * ndimage.gaussian_filter1d(columns, 0.7, axis=1)
        if self.fog:
            seeds = rng.standard_normal((4, 6)).astype(np.float32)
            zoom = (image.shape[0] / 4, image.shape[1] / 6)
            image += np.float32(self.fog) * ndimage.zoom(seeds, zoom, order=1, mode="nearest", grid_mode=True)
        if self.sharpen:
            broad = ndimage.gaussian_filter(image, 0.9 / pixel, truncate=2.5)
            image += np.float32(self.sharpen) * np.clip(image - broad, -0.25, 0.25)
        grey = np.clip((image - np.float32(self.low)) / np.float32(self.high - self.low), 0.0, None)
        grey = grey ** np.float32(self.gamma)
        shown: Floats = np.where(grey < 0.75, grey, 0.75 + 0.25 * np.tanh((grey - 0.75) / 0.25)).astype(np.float32)
        return shown
