"""`phantom fundus`: colour photographs of the retina with masks of disc, vessels and lesions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medgen.phantoms import pictures
from medgen.phantoms.captions import Caption, size_word
from medgen.phantoms.fundus.eye import Eye, FundusView
from medgen.phantoms.fundus.lesions import SIZES, FundusLesion, draw_lesions, paint_lesions, paint_lookalikes
from medgen.phantoms.options import FundusOptions
from medgen.phantoms.pictures import NORMAL, LabelledPicture, Rows, ShownFinding
from medgen.phantoms.primitives import Floats, Grid

TABLES, FOLDERS = pictures.TABLES, pictures.FOLDERS
CLASSES = ("background", "disc", "vessel", "microaneurysm", "haemorrhage", "exudate", "scar", "naevus")


@dataclass(frozen=True)
class Camera:
    """How one photograph was taken."""

    light: tuple[float, float]  # where the light falls off to, and how much
    vignette: float
    haze: float  # of the lens of the eye
    exposure: float
    blur: float  # mm
    noise: float
    balance: tuple[float, float, float]

    @staticmethod
    def draw(rng: np.random.Generator) -> Camera:
        """A random camera, mostly good."""
        return Camera(
            light=(rng.normal(0.0, 0.2), rng.normal(0.0, 0.14)),
            vignette=rng.uniform(0.2, 0.7),
            haze=rng.uniform(0.0, 0.14) if rng.random() < 0.4 else 0.0,
            exposure=rng.uniform(0.82, 1.12),
            blur=rng.uniform(0.008, 0.05),
            noise=rng.uniform(0.004, 0.02),
            balance=(1.0, rng.normal(1.0, 0.05), rng.normal(1.0, 0.08)),
        )

    def expose(self, rng: np.random.Generator, image: Floats, grid: Grid, view: FundusView) -> Floats:
        """(H, W, 3) -> what is stored: light, haze, blur, noise and the black around the circle."""
        x, y = (grid.x - view.x) / np.float32(view.radius), (grid.y - view.y) / np.float32(view.radius)
        from_middle = x * x + y * y
        light = (
            np.float32(self.exposure)
            * (1.0 + self.light[0] * x + self.light[1] * y)
            * (1.0 - self.vignette * from_middle**1.5)
        )
        seen = image * light[..., None] * np.float32(self.exposure) * np.array(self.balance, np.float32)
        seen += np.float32(self.haze) * (np.array([0.75, 0.62, 0.5], np.float32) - seen)
        seen = ndimage.gaussian_filter(seen, (self.blur / grid.pixel, self.blur / grid.pixel, 0.0), truncate=3.0)
        grain = rng.standard_normal(seen.shape, dtype=np.float32)
        seen += np.float32(self.noise) * ndimage.gaussian_filter(grain, (0.6, 0.6, 0.0), truncate=2.0) * 2.0
        seen = np.where(seen < 0.8, seen, 0.8 + 0.2 * np.tanh((seen - 0.8) / 0.2))
        edge = np.clip((1.0 - np.sqrt(from_middle)) * view.radius / (1.5 * grid.pixel) + 0.5, 0.0, 1.0)
        shown: Floats = np.clip(seen, 0.0, 1.0) * edge[..., None] + 0.008 * (1.0 - edge[..., None])
        return shown.astype(np.float32)


def draw(options: FundusOptions, index: int) -> LabelledPicture:
    """Photograph number `index`; with all eyes healthy, the same options give the same one without its lesions."""
    patient, number = divmod(index, options.frames)
    right = number % 2 == 0
    eye = Eye.draw(np.random.default_rng([options.seed, patient, int(right), 0]))
    ill = np.random.default_rng([options.seed, patient, int(right), 1])
    taking = np.random.default_rng([options.seed, index, 2])
    view, camera = FundusView.draw(taking, eye.disc, options.centre), Camera.draw(taking)
    lesions: list[FundusLesion] = []
    kind = NORMAL
    if ill.random() >= options.healthy_fraction:
        kind = str(ill.choice(options.lesions))
        lesions = draw_lesions(ill, kind, view, eye.disc, options.severity)
    size = pictures.drawn_at(options.size)
    grid = view.grid(size)
    vessels = eye.vessels(view)
    image = eye.background(grid)
    paint_lookalikes(taking, image, grid, view)
    eye.paint_disc(image, grid)
    paint_lesions(image, grid, lesions)
    eye.paint_vessels(image, grid, vessels)
    image = pictures.shrink(camera.expose(taking, image, grid, view), options.size)
    grid = view.grid(options.size)
    within = np.hypot(grid.x - view.x, grid.y - view.y) < view.radius
    marked = eye.vessel_mask(grid, vessels) & within
    disc = (eye.disc_distance(grid) < 0) & within
    labels = np.zeros(within.shape, np.uint8)
    masks = []
    for lesion in lesions:
        mask = np.zeros_like(within)
        window, distance = lesion.distance(grid)
        mask[window] = (distance < max(0.25 * grid.pixel, float(distance.min()) + 1e-6)) & within[window]
        labels[mask] = CLASSES.index(lesion.kind)
        masks.append(mask & ~marked & ~disc)
    labels[marked] = CLASSES.index("vessel")
    labels[disc] = CLASSES.index("disc")
    if not right:
        image, labels, masks = image[:, ::-1].copy(), labels[:, ::-1].copy(), [mask[:, ::-1] for mask in masks]
    seen = [(lesion, mask) for lesion, mask in zip(lesions, masks, strict=True) if mask.any()]  # not behind a vessel
    findings = tuple(ShownFinding(lesion.kind, mask) for lesion, mask in seen)
    caption = Caption("fundus", "eye", "right" if right else "left")
    if seen:
        size_of = size_word([float(np.mean([lesion.radius for lesion, _ in seen]))], SIZES[kind])
        caption = Caption("fundus", "eye", caption.side, kind, size_of, len(seen))
    return LabelledPicture(image, labels, findings, kind if seen else NORMAL, caption)


def write_case(options: FundusOptions, index: int, folder: Path) -> Rows:
    """Write photograph and mask number `index` into `folder`; the rows it adds to each of `TABLES`."""
    return draw(options, index).write(index // options.frames, index, folder)
