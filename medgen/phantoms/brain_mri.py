"""`phantom brain-mri`: axial slices of heads, T1, T2 or FLAIR, with tumours and the oedema around them.

Lengths in mm; x grows to the patient's left, which is shown on the right, and y to the back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medgen.phantoms import pictures
from medgen.phantoms.captions import Caption, size_word
from medgen.phantoms.options import BrainMRIOptions
from medgen.phantoms.pictures import NORMAL, LabelledPicture, Rows, ShownFinding
from medgen.phantoms.primitives import (
    Floats,
    Grid,
    Harmonics,
    LatticeNoise,
    coverage,
    paint,
    smooth_min,
    superellipse,
)

TABLES, FOLDERS = pictures.TABLES, pictures.FOLDERS
CLASSES = ("background", "brain", "ventricle", "oedema", "tumour")
FIELD = 210.0  # mm
SIZES = (24.0, 36.0)  # mm, diameters: medium from, large from
# Brightness in T1, T2 and FLAIR: scalp, skull, water, grey matter, white matter, deep nuclei, oedema, tumour, its rim.
WEIGHTINGS = (
    (0.95, 0.08, 0.12, 0.40, 0.60, 0.47, 0.33, 0.36, 0.95),
    (0.60, 0.06, 0.95, 0.56, 0.38, 0.42, 0.85, 0.70, 0.55),
    (0.60, 0.06, 0.08, 0.55, 0.42, 0.46, 0.92, 0.62, 0.80),
)


@dataclass(frozen=True)
class Tumour:
    """A round tumour with a bright rim, a dead core and oedema around it."""

    middle: tuple[float, float]
    radius: float  # mm
    waves: Harmonics
    core: float  # radius relative to the tumour's
    oedema: float  # width relative to its radius

    @staticmethod
    def draw(rng: np.random.Generator, width: float, length: float, severity: tuple[float, float]) -> Tumour:
        """A random tumour in the white matter of either hemisphere of a brain with these half axes."""
        side = 1.0 if rng.random() < 0.5 else -1.0
        return Tumour(
            middle=(side * rng.uniform(0.42, 0.62) * width, rng.uniform(-0.5, 0.5) * length),
            radius=0.5 * float(np.exp(pictures.graded(rng, severity, np.log(15.0), np.log(50.0)))),
            waves=Harmonics.draw(rng, 0.09),
            core=rng.uniform(0.35, 0.7),
            oedema=rng.uniform(0.25, 0.9),
        )

    def away(self, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        """Places (H, W) relative to its middle, and their distance to it."""
        u, v = x - np.float32(self.middle[0]), y - np.float32(self.middle[1])
        return u, v, np.maximum(np.hypot(u, v), np.float32(1.0))


@dataclass(frozen=True)
class Head:
    """One head: half axes of the brain and what lies around it, in mm, and textures (H, W)."""

    width: float
    length: float
    brain: Floats  # distance (H, W)
    x: Floats
    y: Floats
    skull: float
    scalp: float
    furrows: float  # how deep they reach
    cortex: float
    ventricles: tuple[float, float]  # relative width and length
    bright: Floats
    fine: Floats
    folds: Floats
    sway: Floats
    soft: float

    @staticmethod
    def draw(rng: np.random.Generator, grid: Grid) -> Head:
        """A random adult in a random weighting."""
        x, y = (place - np.float32(rng.normal(0.0, 2.0)) for place in (grid.x, grid.y))
        width, length = rng.uniform(60.0, 70.0), rng.uniform(74.0, 88.0)
        waves = 1.0 + Harmonics.draw(rng, 0.012)(np.arctan2(y, x), 0.0)
        fine, folds, sway = (LatticeNoise(rng, step, depth=0.0).plane(0.0, grid.x, grid.y) for step in (2.0, 7.5, 16.0))
        weighting = np.array(WEIGHTINGS[int(rng.integers(len(WEIGHTINGS)))])
        return Head(
            width,
            length,
            superellipse(x, y, width * waves, length * waves, 2.2).astype(np.float32),
            x,
            y,
            skull=rng.uniform(5.0, 8.0),
            scalp=rng.uniform(4.0, 7.0),
            furrows=rng.uniform(13.0, 20.0),
            cortex=rng.uniform(2.4, 3.2),
            ventricles=(rng.uniform(0.7, 1.6), rng.uniform(0.8, 1.15)),
            bright=(weighting * rng.normal(1.0, 0.04, len(weighting))).astype(np.float32),
            fine=fine,
            folds=folds,
            sway=sway,
            soft=max(0.8, grid.pixel),
        )

    def paint(self, image: Floats, tumour: Tumour | None) -> dict[str, Floats]:
        """Paint the head; returns distances (H, W) to the parts that are classes, later ones on top."""
        scalp, skull, water, grey, white, nuclei, *_ = self.bright
        x, y, brain, soft = self.x, self.y, self.brain, self.soft
        if tumour:  # tissue is displaced by it
            u, v, away = tumour.away(x, y)
            push = np.exp(-((away / (1.6 * tumour.radius)) ** 2)) * 0.44 * tumour.radius / away
            x, y = x - push * u, y - push * v
        paint(image, scalp, coverage(brain - np.float32(self.skull + self.scalp), soft))
        paint(image, skull, coverage(brain - np.float32(self.skull + 0.5), soft))
        paint(image, water, coverage(brain - np.float32(1.5), soft))
        below = np.minimum(-brain, self._furrows())
        paint(image, grey + 0.02 * self.fine, coverage(-below, soft))
        paint(image, white + 0.015 * self.fine, coverage(np.float32(self.cortex) - below, 1.4))
        across = np.abs(x)
        front, back = superellipse(across - 14.0, y + 6.0, 7.0, 13.0), superellipse(across - 11.0, y - 14.0, 8.0, 10.0)
        deep = (smooth_min(front, back, 3.0) + self.sway).astype(np.float32)
        paint(image, nuclei + 0.01 * self.fine, coverage(deep, 2.0))
        ventricles = _ventricles(x, y, *self.ventricles)
        paint(image, water, coverage(ventricles, soft))
        parts = {"brain": brain, "ventricle": ventricles}
        return parts | self._paint_tumour(image, tumour) if tumour else parts

    def _furrows(self) -> Floats:
        """Distance to the sulci, which are open near the surface, and to the gap between the hemispheres."""
        furrow = 8.0 * np.abs(self.folds + 0.35 * self.sway)
        furrow = np.minimum(furrow, 8.0 * np.abs(self.fine) + 18.0 * np.abs(self.folds - 0.4 * self.sway))
        sulci = np.maximum(furrow - 0.9, 0.45 * (-self.brain - self.furrows))
        gap = np.where(np.abs(self.y) > 0.38 * self.length, np.abs(self.x + 0.6 * self.sway) - 0.9, 30.0)
        nearest: Floats = np.minimum(sulci, gap).astype(np.float32)
        return nearest

    def _paint_tumour(self, image: Floats, tumour: Tumour) -> dict[str, Floats]:
        swollen, solid, rim = self.bright[6:]
        u, v, away = tumour.away(self.x, self.y)
        within = coverage(self.brain, self.soft)
        body = (away - tumour.radius * (1.0 + tumour.waves(np.arctan2(v, u), 0.0))).astype(np.float32)
        oedema = np.maximum(body - tumour.radius * tumour.oedema + 4.0 * self.sway, 4.0 + self.brain + 3.0 * self.sway)
        paint(image, swollen + 0.02 * self.fine, coverage(oedema, 4.0) * within)
        paint(image, rim + 0.05 * self.fine, coverage(body, 1.5) * within)
        core = body + np.float32(tumour.radius * (1.0 - tumour.core)) + 1.5 * self.sway
        paint(image, solid + 0.05 * self.sway, coverage(core, 2.5))
        return {"oedema": np.maximum(oedema, self.brain), "tumour": np.maximum(body, self.brain)}


def draw(options: BrainMRIOptions, index: int) -> LabelledPicture:
    """Slice number `index`; with all heads healthy, the same options give the same one without its tumour."""
    build, ill, noise = (np.random.default_rng([options.seed, index, part]) for part in range(3))
    size = pictures.drawn_at(options.size)
    grid = Grid(size, FIELD / size)
    head = Head.draw(build, grid)
    tumour = None
    if ill.random() >= options.healthy_fraction:
        tumour = Tumour.draw(ill, head.width, head.length, options.severity)
    image = np.zeros((size, size), np.float32)
    parts = head.paint(image, tumour)
    image = pictures.shrink(_receive(noise, image, head.sway, grid.pixel), options.size)
    labels = np.zeros(image.shape, np.uint8)
    for name, distance in parts.items():
        inside = pictures.shrink(coverage(distance, grid.pixel), options.size) >= 0.5
        labels[inside] = CLASSES.index(name)
    if tumour is None:
        return LabelledPicture(image, labels, (), NORMAL, Caption("brain mri", "brain"))
    finding = ShownFinding("tumour", labels == CLASSES.index("tumour"))
    hand = "left" if tumour.middle[0] > 0 else "right"
    caption = Caption("brain mri", "hemisphere", hand, "tumour", size_word([2.0 * tumour.radius], SIZES), 1)
    return LabelledPicture(image, labels, (finding,), "tumour", caption)


def _ventricles(x: Floats, y: Floats, wide: float, long: float) -> Floats:
    """Front and back horns of the lateral ventricles, and the third between them."""
    side = np.abs(x)
    front = superellipse(side - 5.5 - 0.25 * (-y - 14.0), y + 20.0, 3.6 * wide, 13.0 * long)
    back = superellipse(side - 15.0 - 0.35 * (y - 30.0), y - 30.0, 4.2 * wide, 14.0 * long)
    third = superellipse(x, y - 4.0, 1.6 * wide, 9.0)
    joined: Floats = smooth_min(smooth_min(front, back, 4.0), third, 1.5).astype(np.float32)
    return joined


def _receive(rng: np.random.Generator, image: Floats, sway: Floats, pixel: float) -> Floats:
    """Blur, the coils' uneven sensitivity, and Rician noise."""
    size = len(image)
    seen = ndimage.gaussian_filter(image, rng.uniform(0.3, 0.8) / pixel, truncate=3.0)
    ramp = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    bias = 1.0 + rng.normal(0.0, 0.08) * ramp[None, :] + rng.normal(0.0, 0.08) * ramp[:, None] + 0.01 * sway
    noise = rng.uniform(0.008, 0.03) * max(1.0, 1.0 / pixel)
    real, imaginary = (noise * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    shown: Floats = np.hypot(seen * bias * np.float32(rng.uniform(0.8, 1.0)) + real, imaginary)
    return np.clip(shown, 0.0, 1.0).astype(np.float32)


def write_case(options: BrainMRIOptions, index: int, folder: Path) -> Rows:
    """Write image and mask number `index` into `folder`; the rows it adds to each of `TABLES`."""
    return draw(options, index).write(index, index, folder)
