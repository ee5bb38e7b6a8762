"""`phantom brain-mri`: axial slices of heads, T1, T2 or FLAIR, with tumours and the oedema around them.

Lengths in mm; x grows to the patient's left, which is shown on the right, and y to the back.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from medgen.phantoms import pictures
from medgen.phantoms.captions import Caption, size_word
from medgen.phantoms.options import BrainMRIOptions
from medgen.phantoms.pictures import NORMAL, Finding, Picture, Rows
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


def draw(options: BrainMRIOptions, index: int) -> Picture:
    """Slice number `index`; with all heads healthy, the same options give the same one without its tumour."""
    build, ill, noise = (np.random.default_rng([options.seed, index, part]) for part in range(3))
    size = pictures.drawn_at(options.size)
    grid = Grid(size, FIELD / size)
    soft = max(0.8, grid.pixel)
    x, y = grid.x - np.float32(build.normal(0.0, 2.0)), grid.y - np.float32(build.normal(0.0, 2.0))
    width, length = build.uniform(60.0, 70.0), build.uniform(74.0, 88.0)
    fine, folds, sway = (LatticeNoise(build, step, depth=0.0).plane(0.0, grid.x, grid.y) for step in (2.0, 7.5, 16.0))
    waves = 1.0 + Harmonics.draw(build, 0.012)(np.arctan2(y, x), 0.0)
    brain = superellipse(x, y, width * waves, length * waves, 2.2)
    thick, scalp = build.uniform(5.0, 8.0), build.uniform(4.0, 7.0)
    weighting = WEIGHTINGS[int(build.integers(len(WEIGHTINGS)))]
    bright = np.array(weighting, np.float32) * build.normal(1.0, 0.04, 9).astype(np.float32)

    diameter, side, middle = 0.0, 1, (0.0, 0.0)
    if ill.random() >= options.healthy_fraction:
        diameter, side = float(np.exp(ill.uniform(np.log(15.0), np.log(50.0)))), 1 if ill.random() < 0.5 else -1
        middle = (side * ill.uniform(0.42, 0.62) * width, ill.uniform(-0.5, 0.5) * length)
    away, reach = np.hypot(x - middle[0], y - middle[1]), 0.5 * diameter
    push = np.exp(-((away / max(1.6 * reach, 1.0)) ** 2)) * 0.22 * diameter  # tissue gives way to the tumour
    bent_x = x - push * (x - middle[0]) / np.maximum(away, 1.0)
    bent_y = y - push * (y - middle[1]) / np.maximum(away, 1.0)

    image = np.zeros((size, size), np.float32)
    paint(image, bright[0], coverage(brain - thick - scalp, soft))
    paint(image, bright[1], coverage(brain - thick - 0.5, soft))
    paint(image, bright[2], coverage(brain - 1.5, soft))
    depth = -brain
    furrow = 8.0 * np.abs(folds + 0.35 * sway)
    furrow = np.minimum(furrow, 8.0 * np.abs(fine) + 18.0 * np.abs(folds - 0.4 * sway))
    sulci = np.maximum(furrow - 0.9, 0.45 * (depth - build.uniform(13.0, 20.0)))  # open, near the surface
    falx = np.where(np.abs(y) > 0.38 * length, np.abs(x + 0.6 * sway) - 0.9, 30.0)  # between the hemispheres
    sulci = np.minimum(sulci, falx)
    matter = np.minimum(depth, sulci)  # how deep below the cortex
    paint(image, bright[3] + 0.02 * fine, coverage(-matter, soft))
    white = coverage(build.uniform(2.4, 3.2) - matter, 1.4)
    paint(image, bright[4] + 0.015 * fine, white)
    across = np.abs(bent_x)
    front, back = (
        superellipse(across - 14.0, bent_y + 6.0, 7.0, 13.0),
        superellipse(across - 11.0, bent_y - 14.0, 8.0, 10.0),
    )
    nuclei = smooth_min(front, back, 3.0)
    paint(image, bright[5] + 0.01 * fine, coverage(nuclei + sway, 2.0))
    ventricles = _ventricles(bent_x, bent_y, build.uniform(0.7, 1.6), build.uniform(0.8, 1.15))
    paint(image, bright[2], coverage(ventricles, soft))

    rim = Harmonics.draw(ill, 0.09)(np.arctan2(y - middle[1], x - middle[0]), 0.0)
    tumour = away - reach * (1.0 + rim)
    swollen = np.maximum(tumour - reach * ill.uniform(0.25, 0.9) + 4.0 * sway, 4.0 - depth + 3.0 * sway)
    necrosis = ill.uniform(0.35, 0.7)
    if diameter:
        paint(image, bright[6] + 0.02 * fine, coverage(swollen, 4.0) * coverage(brain, soft))
        paint(image, bright[8] + 0.05 * fine, coverage(tumour, 1.5) * coverage(brain, soft))
        paint(image, bright[7] + 0.05 * sway, coverage(tumour + reach * (1.0 - necrosis) + 1.5 * sway, 2.5))
    image = _receive(noise, image, sway, grid.pixel)

    labels, findings = np.zeros((options.size, options.size), np.uint8), []
    parts = {"brain": brain, "ventricle": ventricles}
    if diameter:
        parts |= {"oedema": np.maximum(swollen, brain), "tumour": np.maximum(tumour, brain)}
    for name, part in parts.items():
        inside = coverage(part.astype(np.float32), grid.pixel)
        labels[pictures.shrink(inside, options.size) >= 0.5] = CLASSES.index(name)
    caption = Caption("brain mri", "brain")
    if diameter:
        findings.append(Finding("tumour", labels == CLASSES.index("tumour")))
        hand = "left" if side > 0 else "right"
        caption = Caption("brain mri", "hemisphere", hand, "tumour", size_word(diameter, SIZES), 1)
    return Picture(
        pictures.shrink(image, options.size), labels, tuple(findings), "tumour" if diameter else NORMAL, caption
    )


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
