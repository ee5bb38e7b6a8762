"""Lesions of the diabetic retina, scars and naevi of the choroid, and harmless things that look like lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgen.phantoms.fundus.eye import FundusView
from medgen.phantoms.pictures import graded, tint
from medgen.phantoms.primitives import Floats, Grid, Harmonics, Window, coverage, superellipse

RADII = {
    "microaneurysm": (0.06, 0.12), "haemorrhage": (0.18, 0.60), "exudate": (0.06, 0.24),
    "scar": (0.5, 1.4), "naevus": (0.7, 2.0),
}  # mm  # fmt: skip
SIZES = {
    "microaneurysm": (0.08, 0.10), "haemorrhage": (0.32, 0.46), "exudate": (0.12, 0.18),
    "scar": (0.75, 1.05), "naevus": (1.1, 1.5),
}  # small, medium, large  # fmt: skip
COLOURS = {
    "microaneurysm": (0.50, 0.10, 0.06), "haemorrhage": (0.46, 0.09, 0.05), "exudate": (1.0, 0.83, 0.36),
    "scar": (0.98, 0.88, 0.66), "naevus": (0.27, 0.17, 0.14),
}  # fmt: skip
SOFTNESS = {"exudate": 0.0, "naevus": 0.2}  # mm
PIGMENT = (0.16, 0.09, 0.07)  # along the edge of a scar
DISC = 1.45  # mm around its middle that stay free
LOOKALIKES = (((0.34, 0.20, 0.13), 0.5), ((0.90, 0.62, 0.30), 0.45), ((0.62, 0.50, 0.42), 0.35))  # colour, strength
NUMBERS = {"microaneurysm": (3, 14), "haemorrhage": (2, 8), "exudate": (3, 14), "scar": (1, 2), "naevus": (1, 1)}


@dataclass(frozen=True)
class FundusLesion:
    """One lesion in the retina."""

    kind: str
    x: float
    y: float
    radius: float  # mm, the mean of its half axes
    stretch: float  # length to width
    turn: float
    strength: float  # 0 to 1: how visible it is
    waves: Harmonics

    def distance(self, grid: Grid) -> tuple[Window, Floats]:
        """Distance, negative inside, in the window (h, w) that holds the lesion and what is around it."""
        reach = 1.3 * self.radius * self.stretch**0.5 + 0.4
        window = grid.window((self.x - reach, self.x + reach), (self.y - reach, self.y + reach))
        sine, cosine = np.sin(self.turn), np.cos(self.turn)
        x, y = grid.x[:, window[1]] - self.x, grid.y[window[0]] - self.y
        along, across = cosine * x + sine * y, cosine * y - sine * x
        waves = 1.0 + self.waves(np.arctan2(across, along), 0.0)
        long, short = self.radius * self.stretch**0.5, self.radius * self.stretch**-0.5
        return window, superellipse(along, across, long * waves, short * waves).astype(np.float32)

    def paint_edge(self, image: Floats, grid: Grid, colour: Sequence[float], width: float) -> None:
        """Draw a broken line `width` mm wide along the inside of its edge."""
        window, distance = self.distance(grid)
        x, y = grid.x[:, window[1]] - self.x, grid.y[window[0]] - self.y
        broken = np.clip(0.5 + np.cos(3.0 * np.arctan2(y, x) + self.turn), 0.0, 1.0)
        line = coverage(np.abs(distance + 0.5 * width) - 0.5 * width, grid.pixel)
        tint(image[window], colour, line * broken.astype(np.float32) * np.float32(self.strength))

    def paint(self, image: Floats, grid: Grid, colour: Sequence[float], soft: float) -> None:
        """Draw it with an edge `soft` mm wide."""
        window, distance = self.distance(grid)
        tint(image[window], colour, coverage(distance, soft + grid.pixel) * np.float32(self.strength))


def draw_lesions(
    rng: np.random.Generator, kind: str, view: FundusView, disc: tuple[float, float], severity: tuple[float, float]
) -> list[FundusLesion]:
    """Lesions of one kind where they usually occur, in the view and off the disc; exudates lie in clusters."""
    low, high = NUMBERS[kind]
    wanted = int(np.clip(np.rint(low + rng.exponential(0.3) * (high - low)), low, high))
    typical = graded(rng, severity, *RADII[kind])
    middle = _place(rng, view, disc, (0.5 * view.x, view.y), 0.35 * view.radius, DISC)
    spread = rng.uniform(0.4, 0.9) if kind == "exudate" else 0.55 * view.radius
    flames = kind == "haemorrhage" and rng.random() < 0.4
    strength = graded(rng, severity, 0.4, 0.95)
    clear = DISC + max(0.0, typical - RADII["haemorrhage"][1])  # large ones keep off the disc too
    found: list[FundusLesion] = []
    for _ in range(12 * wanted):
        x, y = _place(rng, view, disc, middle if kind == "exudate" else (view.x, view.y), spread, clear)
        radius = float(np.clip(typical * rng.lognormal(0.0, 0.12), *RADII[kind]))
        if any(np.hypot(x - old.x, y - old.y) < 1.4 * (radius + old.radius) * old.stretch**0.5 for old in found):
            continue
        found.append(
            FundusLesion(
                kind,
                x,
                y,
                radius,
                stretch=rng.uniform(2.0, 3.5) if flames else rng.uniform(1.0, 1.5),
                turn=np.arctan2(y - disc[1], x - disc[0]) if flames else rng.uniform(0.0, np.pi),
                strength=float(np.clip(strength * rng.normal(1.0, 0.12), 0.25, 0.95)),
                waves=Harmonics.draw(rng, 0.03 if kind == "microaneurysm" else 0.16),
            )
        )
        if len(found) == wanted:
            break
    return found


def paint_lesions(image: Floats, grid: Grid, lesions: list[FundusLesion]) -> None:
    """Draw them into the retina, in front of the choroid and behind the vessels."""
    for lesion in lesions:
        lesion.paint(image, grid, COLOURS[lesion.kind], SOFTNESS.get(lesion.kind, 0.03))
        if lesion.kind == "scar":
            lesion.paint_edge(image, grid, PIGMENT, 0.2 * lesion.radius)


def paint_lookalikes(rng: np.random.Generator, image: Floats, grid: Grid, view: FundusView) -> None:
    """Freckles of the choroid, pale spots of its pigment, and dust on the lens: no lesions."""
    for _ in range(rng.poisson(2.0)):
        colour, most = LOOKALIKES[int(rng.integers(len(LOOKALIKES)))]
        x, y = _place(rng, view, (99.0, 99.0), (view.x, view.y), 0.6 * view.radius, DISC)
        shape = rng.uniform(0.08, 0.4), rng.uniform(1.0, 1.8), rng.uniform(0.0, np.pi), rng.uniform(0.1, most)
        FundusLesion("", x, y, *shape, Harmonics.draw(rng, 0.1)).paint(image, grid, colour, rng.uniform(0.05, 0.3))


def _place(
    rng: np.random.Generator,
    view: FundusView,
    disc: tuple[float, float],
    middle: tuple[float, float],
    spread: float,
    clear: float,
) -> tuple[float, float]:
    """A random place in the view and at least `clear` mm from the middle of the disc."""
    while True:
        x, y = (float(value) for value in rng.normal(middle, spread))
        if np.hypot(x - view.x, y - view.y) < 0.86 * view.radius and np.hypot(x - disc[0], y - disc[1]) > clear:
            return x, y
