"""The inside of a colon as a surface: a tube with folds and bumps, lit and seen from within.

Everything lies on a grid of angles around the way ahead and of depths along it, both relative to the tube's radius.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.phantoms.primitives import Floats, enlarge

ANGLES, DEPTHS = 288, 224
NEAR, FAR = 0.16, 14.0  # depths that are seen
PAD = 3  # columns repeated at the seam


@dataclass(frozen=True)
class Fold:
    """A haustral fold: part of a ring that stands into the tube."""

    depth: float
    height: float
    thick: float
    angle: float
    reach: float  # radians, half
    tilt: float


@dataclass(frozen=True)
class Bump:
    """What stands out of the wall."""

    angle: float
    depth: float
    radius: float
    height: float  # relative to the radius
    stretch: float
    turn: float
    lobes: float  # 0: a smooth oval
    seed: int


class Wall:
    """The tube's radius by angle and depth, and what follows from it."""

    def __init__(self, seed: int, folds: list[Fold], bumps: list[Bump]) -> None:
        rng = np.random.default_rng(seed)
        self.angle = (np.arange(ANGLES, dtype=np.float32) * np.float32(2.0 * np.pi / ANGLES))[:, None]
        self.log_depth = np.linspace(np.log(NEAR), np.log(FAR), DEPTHS, dtype=np.float32)[None, :]
        self.depth = np.exp(self.log_depth)
        self.radius = self._tube(rng)
        for fold in folds:
            self.radius -= self._fold(fold)
        self.covers: list[Floats] = []
        for bump in bumps:
            rise, cover = self._bump(np.random.default_rng(bump.seed), bump)
            self.radius -= rise
            self.covers.append(cover)

    def _tube(self, rng: np.random.Generator) -> Floats:
        """Three-sided between the folds, and bent: what is far off lies to one side."""
        radius = np.ones((ANGLES, DEPTHS), np.float32)
        radius += 0.05 * np.cos(3.0 * (self.angle - rng.uniform(0.0, 2.0)) + 0.3 * self.depth)
        radius += 0.06 * np.cos(2.0 * (self.angle - rng.uniform(0.0, 3.0)) + 0.15 * self.depth)
        bend, towards = rng.uniform(0.0, 0.055), rng.uniform(0.0, 2.0 * np.pi)
        radius += bend * self.depth**1.5 * np.cos(self.angle - towards)
        bumpy = ndimage.gaussian_filter(rng.standard_normal((ANGLES, DEPTHS)), (9.0, 9.0), mode=("wrap", "nearest"))
        radius += 0.035 / bumpy.std() * bumpy * np.minimum(self.depth, 1.0)
        return radius.astype(np.float32)

    def _fold(self, fold: Fold) -> Floats:
        away = _turn(self.angle - fold.angle)
        along = (self.depth - fold.depth * (1.0 + fold.tilt * np.cos(away))) / fold.thick
        arc = np.clip(1.25 - np.abs(away) / fold.reach, 0.0, 1.0)
        return (fold.height * np.exp(-along * along) * (arc * arc * (3.0 - 2.0 * arc))).astype(np.float32)

    def _bump(self, rng: np.random.Generator, bump: Bump) -> tuple[Floats, Floats]:
        """How far it rises, and where it is: 1 inside, 0 outside, 0.5 on its edge."""
        across = _turn(self.angle - bump.angle)
        along = self.depth - bump.depth
        sine, cosine = np.sin(bump.turn), np.cos(bump.turn)
        u, v = cosine * across + sine * along, cosine * along - sine * across
        waves = 1.0 + sum(
            rng.normal(0.0, bump.lobes) * np.cos(order * np.arctan2(v, u) + rng.uniform(0.0, 6.0))
            for order in (2, 3, 4, 5)
        )
        level = np.sqrt((u / bump.stretch) ** 2 + (v * bump.stretch) ** 2) / (bump.radius * waves)
        dome = np.sqrt(np.clip(1.0 - level**2, 0.0, None))
        noise = ndimage.gaussian_filter(rng.standard_normal((ANGLES, DEPTHS)), (3.5, 3.5), mode=("wrap", "nearest"))
        dome *= 1.0 + bump.lobes * noise / noise.std()
        skirt = 0.12 * np.exp(-(np.clip(level - 0.85, 0.0, None) ** 2) * 9.0)
        rise = bump.radius * bump.height * (dome + skirt * (level < 3.0))
        return rise.astype(np.float32), np.clip((1.0 - level) * 5.0 + 0.5, 0.0, 1.0).astype(np.float32)

    @cached_property
    def slopes(self) -> tuple[Floats, Floats]:
        """Change of the radius along the depth and, relative to itself, around: (A, D) each."""
        step = float(self.log_depth[0, 1] - self.log_depth[0, 0])
        along = np.gradient(self.radius, step, axis=1) / self.depth
        around = (np.roll(self.radius, -1, axis=0) - np.roll(self.radius, 1, axis=0)) * (ANGLES / (4.0 * np.pi))
        return along.astype(np.float32), (around / self.radius).astype(np.float32)

    def seen(self, angle: Floats, slope: Floats) -> tuple[Floats, Floats]:
        """Where lines of sight (H, W) first meet the wall: places on the grid, fractional (angles, depths).

        A line of sight at `slope` = radius by depth meets the nearest place whose own slope is not larger, so that the
        running least of slopes along each angle, turned around, says which; slopes are looked up logarithmically.
        """
        least = np.minimum.accumulate(np.log(np.maximum(self.radius, 0.05)) - self.log_depth, axis=1)
        levels = np.linspace(-3.2, 2.4, 320)
        table = np.stack([np.interp(levels, line[::-1], np.arange(DEPTHS)[::-1]) for line in least]).astype(np.float32)
        row = (angle % np.float32(2.0 * np.pi)) * np.float32(ANGLES / (2.0 * np.pi))
        column = (np.log(np.maximum(slope, 1e-3)) + 3.2) * np.float32(319 / 5.6)
        return row, self.look(table, row, np.clip(column, 0.0, 319.0))

    @staticmethod
    def look(values: Floats, row: Floats, column: Floats) -> Floats:
        """Values (A, N) of a map at places (H, W), linear between its points."""
        padded = np.concatenate([values[-PAD:], values, values[:PAD]])
        found: Floats = ndimage.map_coordinates(padded, [row + PAD, column], order=1, mode="nearest", prefilter=False)
        return found


def texture(rng: np.random.Generator, scale: float) -> Floats:
    """Noise (A, D) of unit variance; `scale` is its grain in places of the grid, the same at all depths."""
    rows, columns = max(4, int(ANGLES / scale)), max(4, int(DEPTHS / scale))
    coarse = rng.standard_normal((rows + 1, columns)).astype(np.float32)
    coarse[-1] = coarse[0]
    field = enlarge(coarse, ANGLES + 1, DEPTHS)[:-1]
    return field / np.float32(field.std())


def outline(rng: np.random.Generator, lobes: float, angle: Floats) -> Floats:
    """Relative change of a polyp's radius by angle (H, W)."""
    total = np.zeros_like(angle)
    for order in range(1, 6):
        total += np.float32(1.6 * rng.normal(0.0, lobes) / order) * np.cos(
            order * angle + np.float32(rng.uniform(0.0, 6.0))
        )
    return total


def _turn(angle: Any) -> npt.NDArray[np.float32]:
    """An angle in (-pi, pi]."""
    turned: npt.NDArray[np.float32] = (angle + np.float32(np.pi)) % np.float32(2.0 * np.pi) - np.float32(np.pi)
    return turned
