"""`phantom oct`: slices through the macula by optical coherence tomography, with drusen, cysts and detachments.

Lengths in mm; x grows to the nose, 0 is the fovea, y grows downwards from the middle of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medgen.phantoms import pictures
from medgen.phantoms.captions import Caption, size_word
from medgen.phantoms.options import OCTOptions
from medgen.phantoms.pictures import NORMAL, LabelledPicture, Mask, Rows, ShownFinding
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
OUTER_NUCLEAR, EPITHELIUM = 5, 8
RADII = {"druse": (0.04, 0.11), "cyst": (0.10, 0.24), "detachment": (0.06, 0.20)}  # mm; heights of drusen, detachments
SIZES = {"druse": (0.055, 0.085), "cyst": (0.14, 0.19), "detachment": (0.10, 0.16)}  # mm: medium from, large from


@dataclass(frozen=True)
class Lesions:
    """What is ill: all of one kind."""

    kind: str
    places: tuple[float, ...]  # mm along x
    radii: tuple[float, ...]

    @staticmethod
    def draw(rng: np.random.Generator, kind: str, severity: tuple[float, float]) -> Lesions:
        """Up to five that stand apart, or one detachment."""
        if kind == NORMAL:
            return Lesions(kind, (), ())
        low, high = RADII[kind]
        typical = pictures.graded(rng, severity, low, high)
        if kind == "detachment":
            return Lesions(kind, (rng.normal(0.0, 0.5),), (typical,))
        count = int(rng.integers(1, 6))
        places: list[float] = []
        for place in rng.uniform(-1.9, 1.9, 20 * count).tolist():
            if len(places) < count and all(abs(place - other) > 4.5 * typical for other in places):
                places.append(place)
        radii = (float(np.clip(typical * rng.normal(1.0, 0.08), low, high)) for _ in places)
        return Lesions(kind, tuple(places), tuple(radii))

    def heights(self, kind: str, x: Floats) -> Floats:
        """How far lesions of a kind lift what lies on them, (K, W): domes of drusen, or the parabola of fluid."""
        if self.kind != kind:
            return np.zeros((1, x.shape[1]), np.float32)
        place, radius = (np.array(values, np.float32)[:, None] for values in (self.places, self.radii))
        if kind == "druse":
            domes: Floats = radius * np.exp(-(((x - place) / (2.4 * radius)) ** 2))
            return domes
        lifted: Floats = radius * np.clip(1.0 - ((x - place) / (8.0 * radius)) ** 2, 0.0, 1.0)
        return lifted


@dataclass(frozen=True)
class Retina:
    """One eye's retina without lesions, by column (1, W)."""

    base: Floats  # y of its lower edge
    thick: Floats
    shares: list[Floats]  # of each layer in the thickness
    bright: Floats
    choroid: Floats  # brightness (H, W) below it

    @staticmethod
    def draw(rng: np.random.Generator, x: Floats, y: Floats) -> Retina:
        """A random one at the places x (1, W) and y (H, 1)."""
        base = rng.normal(0.25, 0.06) + rng.normal(0.0, 0.025) * x + rng.uniform(-0.004, 0.016) * x * x
        base = base + 0.004 * LatticeNoise(rng, 0.25, extent=9.0, depth=0.0).plane(0.0, x, x[:1, :1])
        pit = np.exp(-((x / rng.uniform(0.42, 0.58)) ** 2))
        thick = rng.uniform(0.31, 0.37) * (1.0 - rng.uniform(0.30, 0.42) * pit - 0.012 * x * x)
        shares = [beside + (inside - beside) * pit for _, beside, inside, _ in LAYERS]
        shares[0] = shares[0] * (1.0 + 0.9 * np.clip(x / 1.6, -0.95, 1.4))  # nerve fibres gather towards the disc
        total = np.sum(shares, axis=0)
        bright = np.array([layer[3] for layer in LAYERS]) * rng.normal(1.0, 0.08, len(LAYERS))
        vessels = LatticeNoise(rng, 0.17, extent=9.0, depth=0.0).plane(0.0, x, 3.0 * y) + 0.5
        fall = np.exp(-np.maximum(y - base, 0.0) / (1.1 * rng.uniform(0.2, 0.34)))
        choroid = (0.60 + 0.14 * np.clip(vessels, -1.5, 1.0)) * fall
        return Retina(
            base, thick, [share / total for share in shares], bright.astype(np.float32), choroid.astype(np.float32)
        )

    def paint(self, image: Floats, x: Floats, y: Floats, lesions: Lesions) -> tuple[list[Floats], list[Mask]]:
        """Draw it with drusen and fluid; the layers' edges (1, W) from above, and the lesions' masks (H, W)."""
        domes, fluid = lesions.heights("druse", x), lesions.heights("detachment", x).max(axis=0)
        drusen = domes.max(axis=0)
        paint(image, self.choroid, coverage((self.base - y).astype(np.float32), EDGE))
        bottom = self.base - drusen
        paint(image, np.float32(0.5), _between(bottom, y, self.base) * (drusen > 1e-4))
        level = self.base - self.thick - fluid - 0.4 * drusen
        edges, masks = [level], []
        for number, share in enumerate(self.shares):
            if number == EPITHELIUM:  # fluid lies between it and the photoreceptors
                if lesions.kind == "detachment":
                    masks.append((y > level) & (y < level + fluid) & (fluid > 0.004))
                level = level + fluid
            end = level + self.thick * share
            if number == OUTER_NUCLEAR:  # drusen press this layer thin
                end = end - 0.6 * drusen
            paint(image, np.float32(self.bright[number]), _between(level, y, end))
            edges.append(end)
            level = end
        if lesions.kind == "druse":
            above = (y > bottom) & (y < self.base) & (drusen > 0.25 * max(lesions.radii))
            masks += [above & (domes.argmax(axis=0) == number) for number in range(len(domes))]
        return edges, masks


def draw(options: OCTOptions, index: int) -> LabelledPicture:
    """Slice number `index`; with all eyes healthy, the same options give the same eye and speckle."""
    build, ill, noise = (np.random.default_rng([options.seed, index, part]) for part in range(3))
    size = pictures.drawn_at(options.size)
    places = (np.arange(size, dtype=np.float32) + 0.5) / np.float32(size) - np.float32(0.5)
    x, y = places[None, :] * np.float32(WIDTH), places[:, None] * np.float32(HEIGHT)
    kind = NORMAL if ill.random() < options.healthy_fraction else str(ill.choice(options.lesions))
    lesions = Lesions.draw(ill, kind, options.severity)
    image = np.full((size, size), 0.05, np.float32)
    edges, masks = Retina.draw(build, x, y).paint(image, x, y, lesions)
    if lesions.kind == "cyst":
        masks = [_cyst(image, x, y, edges, *one) for one in zip(lesions.places, lesions.radii, strict=True)]
    image = _scan(noise, image, build.uniform(0.7, 1.1), build.uniform(0.16, 0.3))

    retina, *masks = (
        pictures.shrink(mask.astype(np.float32), options.size) >= 0.5
        for mask in ((y > edges[0]) & (y < edges[-1]), *masks)
    )
    image, labels = np.clip(pictures.shrink(image, options.size), 0.0, 1.0), retina.astype(np.uint8)
    for mask in masks:
        labels[mask] = CLASSES.index(lesions.kind)
    side = "right" if index % 2 == 0 else "left"
    if side == "left":  # the nose is on the right in a right eye
        image, labels, masks = image[:, ::-1].copy(), labels[:, ::-1].copy(), [mask[:, ::-1] for mask in masks]
    findings = tuple(ShownFinding(lesions.kind, mask) for mask in masks if mask.any())
    if not findings:
        return LabelledPicture(image, labels, (), NORMAL, Caption("oct", "macula", side))
    size_of = size_word([float(np.mean(lesions.radii))], SIZES[lesions.kind])
    return LabelledPicture(
        image, labels, findings, lesions.kind, Caption("oct", "macula", side, lesions.kind, size_of, len(findings))
    )


def _between(upper: Floats, y: Floats, lower: Floats) -> Floats:
    """The share of each pixel (H, W) between two edges (1, W)."""
    return coverage(np.maximum(upper - y, y - lower).astype(np.float32), EDGE)


def _cyst(image: Floats, x: Floats, y: Floats, edges: list[Floats], place: float, radius: float) -> Mask:
    """Draw a cyst into the middle layers; its mask (H, W)."""
    column = int(np.abs(x[0] - place).argmin())
    top, upper, lower = (float(edges[number][0, column]) for number in (0, 4, 6))
    middle = max(upper + 0.35 * (lower - upper), top + 0.5 * radius + 0.03)  # inside, even in the fovea
    away = np.hypot(x - place, 2.0 * (y - middle)) - radius
    paint(image, np.float32(0.08), coverage((0.5 * away).astype(np.float32), 2.0 * EDGE))
    inside: Mask = away < 0
    return inside


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
