"""Polyps of a patient, how they stand in one frame, and those on a stalk, which hang before the wall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgen.phantoms.endoscopy.colon import Bump, outline
from medgen.phantoms.pictures import tint
from medgen.phantoms.primitives import Floats, Grid, Window, coverage, enlarge, smooth_max

TUBE = 22.0  # mm, the colon's radius
SIZES = (12.0, 20.0)  # mm: small below, large from there on
HEIGHTS = {"sessile": (0.55, 1.1), "flat": (0.15, 0.38)}


@dataclass(frozen=True)
class Polyp:
    """One polyp, wherever the endoscope stands."""

    kind: str
    diameter: float  # mm
    height: float
    stretch: float
    lobes: float
    shift: tuple[float, float, float]  # of colour, a share of the mucosa's
    roughness: float
    seed: int

    @staticmethod
    def draw(rng: np.random.Generator, kind: str) -> Polyp:
        """From hardly to plainly different from the mucosa around it."""
        plain = rng.uniform(0.7, 1.2)
        red = rng.random() < 0.7  # else pale
        shift = (-0.02, -0.33, -0.25) if red else (0.04, 0.20, 0.40)
        diameter = float(np.clip(rng.lognormal(np.log(18.0 if kind == "flat" else 14.0), 0.35), 8.0, 32.0))
        return Polyp(
            kind=kind,
            diameter=diameter,
            height=rng.uniform(*HEIGHTS.get(kind, (0.8, 1.2))),
            stretch=rng.uniform(1.0, 1.35),
            lobes=rng.uniform(0.03, 0.12),
            shift=tuple(plain * value for value in shift),  # type: ignore[arg-type]
            roughness=plain * rng.uniform(0.3, 1.0),
            seed=int(rng.integers(1 << 31)),
        )

    def colour(self, mucosa: Floats, share: float = 1.0) -> Floats:
        """Its colour (3,) by that of the mucosa, or as far on the way to it as `share` says."""
        colour: Floats = mucosa * (1.0 + np.float32(share) * np.asarray(self.shift, np.float32))
        return colour

    def bump(self, angle: float, depth: float, turn: float) -> Bump:
        """As it stands out of the wall at a place."""
        radius = 0.5 * self.diameter / TUBE
        return Bump(angle, depth, radius, self.height, self.stretch, turn, self.lobes, self.seed)


@dataclass(frozen=True)
class Hanging:
    """A polyp on a stalk as one frame shows it; places and lengths in half widths of the frame."""

    polyp: Polyp
    head: tuple[float, float]
    foot: tuple[float, float]
    radius: float
    light: float

    def shape(self, u: Floats, v: Floats) -> tuple[Floats, Floats, Floats]:
        """Distances (H, W) to head and stalk, and how far the surface is turned to the viewer, 1 for wholly."""
        rng = np.random.default_rng(self.polyp.seed)
        x, y = u - self.head[0], v - self.head[1]
        turn = np.arctan2(self.foot[1] - self.head[1], self.foot[0] - self.head[0])
        along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        angle = np.arctan2(across, along)
        waves = np.float32(1.0) + outline(rng, self.polyp.lobes, angle)
        level = np.hypot(along / self.polyp.stretch, across) / (self.radius * waves)
        lumpy = 1.0 + self.polyp.lobes * np.sin(9.0 * along / self.radius + 2.0 * np.sin(5.0 * across / self.radius))
        length = float(np.hypot(self.foot[0] - self.head[0], self.foot[1] - self.head[1]))
        across = across + 0.35 * self.radius * np.sin(np.pi * np.clip(along / length, 0.0, 1.0))
        thick = self.radius * (0.38 + 0.5 * np.clip(along / length - 0.5, 0.0, 0.5) ** 2)
        stalk = np.maximum(np.abs(across) - thick, -along)
        stalk = smooth_max(stalk, along - length, 0.8 * self.radius)
        facing = np.sqrt(np.clip(1.0 - level * level * lumpy, 0.0, 1.0))
        bare = np.sqrt(np.clip(1.0 - (across / thick) ** 2, 0.0, 1.0))
        head = (level - 1.0) * self.radius
        return head, stalk, np.where(head < 0, facing, 0.9 * bare)

    def window(self, size: int) -> Window:
        """Rows and columns of a square frame that it, and its shadow, can be in."""
        ends = np.array([self.head, self.foot])
        (left, top), (right, bottom) = ends.min(axis=0) - 3.0 * self.radius, ends.max(axis=0) + 3.0 * self.radius
        return Grid(size, 2.0 / size).window((left, right), (top, bottom))

    def cover(self, u: Floats, v: Floats) -> Floats:
        """The share of each pixel (H, W) that it takes."""
        covered, window = np.zeros_like(u), self.window(len(u))
        head, stalk, _ = self.shape(u[window], v[window])
        covered[window] = coverage(np.minimum(head, stalk), 2.0 / len(u))
        return covered

    def paint(self, image: Floats, u: Floats, v: Floats, mucosa: Floats) -> None:
        """Draw it into light (H, W, 3)."""
        rng, size, pixel = np.random.default_rng(self.polyp.seed), len(image), 2.0 / len(image)
        lumps, grain = (enlarge(rng.standard_normal((n, n)).astype(np.float32), size, size) for n in (28, 120))
        window = self.window(size)
        image, grain = image[window], grain[window] + 0.6 * lumps[window]
        head, stalk, facing = self.shape(u[window], v[window])
        whole = np.minimum(head, stalk)
        image *= 1.0 - 0.35 * np.exp(-np.maximum(whole, 0.0) / (0.25 * self.radius))[..., None]  # less light beside it
        for distance, share in ((stalk, 0.25), (head, 1.0)):
            colour = self.polyp.colour(mucosa, share)
            light = self.light * (0.25 + 0.75 * facing) * (1.0 + 0.14 * self.polyp.roughness * grain)
            alpha = coverage(distance, pixel)
            image += (light[..., None] * colour - image) * alpha[..., None]
        gleam = np.clip((facing + 0.012 * grain - 0.988) / 0.01, 0.0, 1.0) * coverage(head + 0.3 * self.radius, pixel)
        tint(image, (2.6, 2.6, 2.4), 0.9 * gleam)
