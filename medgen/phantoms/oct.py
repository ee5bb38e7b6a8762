"""`phantom oct`: slices through the macula by optical coherence tomography, with drusen, cysts and detachments.

Lengths in mm; x grows to the nose, 0 is the fovea, y grows downwards from the middle of the picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from medgen.phantoms import pictures
from medgen.phantoms.captions import Caption, size_word
from medgen.phantoms.options import OCTOptions
from medgen.phantoms.pictures import NORMAL, Finding, Picture, Rows
from medgen.phantoms.primitives import Floats, LatticeNoise, coverage, paint

TABLES, FOLDERS = pictures.TABLES, pictures.FOLDERS
CLASSES = ("background", "retina", "druse", "cyst", "detachment")
WIDTH, HEIGHT = 6.0, 1.5  # mm that a picture shows
EDGE = 0.006  # mm
# Layers from the vitreous down: share of the retina's thickness beside the fovea and in it, and how bright they are.
LAYERS = (
    ("nerve fibres", 0.10, 0.00, 0.80),
    ("ganglion cells", 0.15, 0.02, 0.46),
    ("inner plexiform", 0.13, 0.04, 0.60),
    ("inner nuclear", 0.12, 0.05, 0.32),
    ("outer plexiform", 0.09, 0.06, 0.58),
    ("outer nuclear", 0.23, 0.53, 0.22),
    ("ellipsoid", 0.06, 0.12, 0.78),
    ("outer segments", 0.06, 0.10, 0.42),
    ("pigment epithelium", 0.06, 0.08, 0.92),
)
SIZES = {"druse": (0.055, 0.085), "cyst": (0.14, 0.19), "detachment": (0.10, 0.16)}  # mm: medium from, large from


def draw(options: OCTOptions, index: int) -> Picture:
    """Slice number `index`; with all eyes healthy, the same options give the same eye and speckle."""
    build, ill, noise = (np.random.default_rng([options.seed, index, part]) for part in range(3))
    right = index % 2 == 0
    size = pictures.drawn_at(options.size)
    across, down = (((np.arange(size) + 0.5) / size - 0.5) * length for length in (WIDTH, HEIGHT))
    x, y = across.astype(np.float32)[None, :], down.astype(np.float32)[:, None]
    base = build.normal(0.25, 0.06) + build.normal(0.0, 0.025) * x + build.uniform(-0.004, 0.016) * x * x
    pit = np.exp(-((x / build.uniform(0.42, 0.58)) ** 2))
    thick = build.uniform(0.31, 0.37) * (1.0 - build.uniform(0.30, 0.42) * pit - 0.012 * x * x)
    brightness = build.normal(1.0, 0.08, len(LAYERS))
    folds = LatticeNoise(build, 0.25, extent=9.0, depth=0.0)
    choroid_depth, vessels = build.uniform(0.2, 0.34), LatticeNoise(build, 0.17, extent=9.0, depth=0.0)
    kind = NORMAL if ill.random() < options.healthy_fraction else str(ill.choice(options.lesions))
    places, radii = _lesions(ill, kind)
    drusen, fluid = np.zeros_like(x), np.zeros_like(x)
    for place, radius in zip(places, radii, strict=True):
        if kind == "druse":
            drusen = np.maximum(drusen, radius * np.exp(-(((x - place) / (2.4 * radius)) ** 2)))
        elif kind == "detachment":
            fluid = radius * np.clip(1.0 - ((x - place) / (8.0 * radius)) ** 2, 0.0, 1.0)

    base = base + 0.004 * folds.plane(0.0, x, x[:1, :1])
    bottom = base - drusen  # of the retina
    image = 0.05 + np.zeros((size, size), np.float32)
    depth = y - base
    texture = vessels.plane(0.0, x, 3.0 * y) + 0.5
    deep = (0.60 + 0.14 * np.clip(texture, -1.5, 1.0)) * np.exp(-np.maximum(depth, 0.0) / (1.1 * choroid_depth))
    paint(image, deep.astype(np.float32), coverage((base - y).astype(np.float32), EDGE))
    if kind == "druse":
        paint(image, np.float32(0.5), coverage(np.maximum(bottom - y, y - base).astype(np.float32), EDGE))
    level = base - thick - fluid - 0.4 * drusen
    edges, masks = [level], []
    nasal = 1.0 + 0.65 * np.clip(x / 2.0, -0.9, 1.5)  # the nerve fibres thicken towards the disc
    shares = [beside + (inside - beside) * pit for _, beside, inside, _ in LAYERS]
    shares[0] = shares[0] * nasal
    total = np.sum(shares, axis=0)
    for number, share in enumerate(shares):
        if number == len(LAYERS) - 1:
            if kind == "detachment":  # fluid lies between the photoreceptors and the pigment epithelium
                masks.append((y > level) & (y < level + fluid) & (fluid > 0.004))
            level = level + fluid
        end = level + thick * share / total
        if LAYERS[number][0] == "outer nuclear":  # it is this layer that drusen press thin
            end = end - 0.6 * drusen
        value = np.float32(LAYERS[number][3] * brightness[number])
        paint(image, value, coverage(np.maximum(level - y, y - end).astype(np.float32), EDGE))
        level = end
        edges.append(end)
    retina = (y > edges[0]) & (y < edges[-1])
    if kind == "druse":
        masks.append((y > bottom) & (y < base) & (drusen > 0.25 * max(radii)))
    for place, radius in zip(places, radii, strict=True) if kind == "cyst" else ():
        middle = np.interp(place, across, (edges[4] + 0.35 * (edges[6] - edges[4]))[0])
        middle = max(middle, np.interp(place, across, edges[0][0]) + 0.5 * radius + 0.03)  # inside, even in the fovea
        away = np.hypot(x - place, 2.0 * (y - middle)) - radius
        paint(image, np.float32(0.08), coverage((away * 0.5).astype(np.float32), 2.0 * EDGE))
        masks.append(away < 0)
    image = _scan(noise, image, build.uniform(0.7, 1.1), build.uniform(0.16, 0.3))
    shrunk = [pictures.shrink(mask.astype(np.float32), options.size) >= 0.5 for mask in masks]
    labels = (pictures.shrink(retina.astype(np.float32), options.size) >= 0.5).astype(np.uint8)
    for mask in shrunk:
        labels[mask] = CLASSES.index(kind)
    image = np.clip(pictures.shrink(image, options.size), 0.0, 1.0)
    if not right:  # the nose is on the right in a right eye
        image, labels, shrunk = image[:, ::-1].copy(), labels[:, ::-1].copy(), [mask[:, ::-1] for mask in shrunk]
    caption = Caption("oct", "macula", "right" if right else "left")
    if kind != NORMAL:
        caption = Caption(
            "oct", "macula", caption.side, kind, size_word(float(np.mean(radii)), SIZES[kind]), len(radii)
        )
    return Picture(image, labels, tuple(Finding(kind, mask) for mask in shrunk if mask.any()), kind, caption)


def _lesions(rng: np.random.Generator, kind: str) -> tuple[list[float], list[float]]:
    """Places (mm along x) and radii (mm; heights of drusen and detachments)."""
    if kind == NORMAL:
        return [], []
    if kind == "detachment":
        return [rng.normal(0.0, 0.5)], [rng.uniform(0.06, 0.2)]
    low, high = (0.04, 0.11) if kind == "druse" else (0.10, 0.24)
    typical = rng.uniform(low, high)
    places: list[float] = []
    for _ in range(20 * int(count := rng.integers(1, 6))):
        place = float(rng.uniform(-1.9, 1.9))
        if all(abs(place - other) > 4.5 * typical for other in places) and len(places) < count:
            places.append(place)
    return places, [float(np.clip(typical * rng.normal(1.0, 0.08), low, high)) for _ in places]


def _scan(rng: np.random.Generator, image: Floats, gain: float, grain: float) -> Floats:
    """Speckle, which multiplies, shadows of vessels, and the noise of the detector."""
    size = len(image)
    shadows = np.ones(size, np.float32)
    for _ in range(rng.poisson(3)):
        shadows *= 1.0 - rng.uniform(0.1, 0.4) * np.exp(-(((np.arange(size) / size - rng.random()) / 0.008) ** 2))
    speckle = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), (0.5, 1.0), truncate=2.5)
    seen = image * np.exp(np.float32(grain) * 2.0 * speckle) * shadows * np.float32(gain)
    shown: Floats = (seen + 0.02 * np.abs(rng.standard_normal(image.shape, dtype=np.float32))) ** np.float32(0.75)
    return shown.astype(np.float32)


def write_case(options: OCTOptions, index: int, folder: Path) -> Rows:
    """Write image and mask number `index` into `folder`; the rows it adds to each of `TABLES`."""
    return draw(options, index).write(index // 2, index, folder)
