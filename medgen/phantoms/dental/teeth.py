"""Teeth in their own coordinates: crown, enamel, pulp and roots, and the two rows they stand in.

A tooth's coordinates are s, across, and t, from the biting edge (0) towards the root's tip, both in mm.
Places in the jaws are x, from the midline to the image's right, and y, from the biting plane down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medgen.phantoms.outlines import window_of
from medgen.phantoms.primitives import Floats, Window, coverage, smooth_max, smooth_min

# Widths, crown heights and root lengths in mm of the permanent teeth from the midline back, upper and lower jaw.
WIDTHS = {
    "upper": (8.6, 6.7, 7.6, 7.1, 6.8, 10.2, 9.4, 8.6),
    "lower": (5.3, 5.9, 6.9, 7.1, 7.2, 11.2, 10.6, 10.2),
}
CROWNS = {"upper": (10.5, 9.2, 10.0, 8.5, 8.4, 7.6, 7.2, 6.6), "lower": (9.0, 9.4, 10.8, 8.6, 8.1, 7.7, 7.3, 6.9)}
ROOTS = {
    "upper": (13.0, 13.2, 16.8, 14.0, 14.0, 13.0, 12.3, 11.0),
    "lower": (12.6, 13.8, 15.8, 14.2, 14.5, 14.2, 13.2, 11.2),
}
KINDS = ("incisor", "incisor", "canine", "premolar", "premolar", "molar", "molar", "molar")


@dataclass(frozen=True)
class Root:
    """A root's middle line s = start + lean * u + bend * u^2 for u from 0 at the neck to 1 at the tip."""

    start: float
    lean: float
    bend: float
    length: float  # mm
    width: float  # mm, half, at the neck

    def middle(self, u: Any) -> Any:
        """Where the root is at u."""
        return self.start + self.lean * u + self.bend * u * u


@dataclass(frozen=True)
class Tooth:
    """One tooth and its dental work."""

    number: int  # FDI: quadrant and place
    x: float  # of the middle of its biting edge
    y: float
    tilt: float  # radians; positive leans the root to the image's right
    width: float
    crown: float  # mm from the biting edge to the neck
    roots: tuple[Root, ...]
    cusps: int
    pulp: float  # relative width of the pulp
    repairs: tuple[str, ...] = ()
    build: float = 0.0  # 0 to 1: random variation
    screw: bool = False  # an implant
    absent: bool = field(default=False)

    @property
    def up(self) -> float:
        """-1 in the upper jaw, whose roots point up, and 1 in the lower."""
        return -1.0 if self.number < 30 else 1.0

    @property
    def kind(self) -> str:
        """Incisor, canine, premolar or molar."""
        return KINDS[self.number % 10 - 1]

    @property
    def length(self) -> float:
        """From the biting edge to the farthest tip, mm."""
        return self.crown + max(root.length for root in self.roots)

    def place(self, s: float, t: float) -> tuple[float, float]:
        """Tooth coordinates -> jaw coordinates."""
        sine, cosine = np.sin(self.tilt), np.cos(self.tilt)
        return float(self.x + cosine * s + sine * t), float(self.y + self.up * (cosine * t - sine * s))

    def own(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Jaw coordinates -> tooth coordinates (s, t)."""
        sine, cosine = np.float32(np.sin(self.tilt)), np.float32(np.cos(self.tilt))
        across, along = x - np.float32(self.x), (y - np.float32(self.y)) * np.float32(self.up)
        return across * cosine - along * sine, across * sine + along * cosine

    def window(self, x: Any, y: Any, margin: float = 4.0) -> Window:
        """The window of x, y (H, W) that holds the whole tooth and `margin` mm around it."""
        wide = 0.75 * self.width + margin
        corners = np.array([self.place(s, t) for s in (-wide, wide) for t in (-margin, self.length + margin)])
        low, high = corners.min(axis=0), corners.max(axis=0)
        return window_of(x, y, (low[0], high[0]), (low[1], high[1]))


@dataclass(frozen=True)
class ToothMaps:
    """Signed distances (h, w) to the parts of one tooth, in its window."""

    s: Floats
    t: Floats
    whole: Floats
    crown: Floats
    core: Floats  # dentine within the enamel
    pulp: Floats
    canals: Floats


def maps_of(tooth: Tooth, x: Floats, y: Floats) -> ToothMaps:
    """All parts of a tooth at the places x, y (h, w)."""
    s, t = tooth.own(x, y)
    half, height = 0.5 * tooth.width, tooth.crown
    blunt = {"incisor": 0.04, "canine": 0.34, "premolar": 0.16, "molar": 0.07}[tooth.kind]
    neck = {"incisor": 0.70, "canine": 0.76, "premolar": 0.74, "molar": 0.84}[tooth.kind]
    waist = 0.32 * height  # where it is widest
    above = np.clip((waist - t) / waist, 0.0, 1.3)
    below = np.clip((t - waist) / (height - waist), 0.0, 1.6)
    wide = half * (1.0 - blunt * above**2 - (1.0 - neck) * below**1.6)
    relief = {"incisor": 0.15, "canine": 1.3, "premolar": 1.3, "molar": 1.2}[tooth.kind]
    valley = 0.5 - 0.5 * np.cos(np.clip(s / half, -1.0, 1.0) * np.pi * tooth.cusps + (tooth.cusps % 2) * np.pi)
    edge = relief * (valley if tooth.cusps > 1 else (s / half) ** 2)
    top = smooth_max(np.abs(s) - wide, edge - t, 1.6)
    crown = smooth_max(top, t - height - 0.15 * half * (s / half) ** 2, 0.6)
    roots = np.full(s.shape, 1e3, np.float32)
    canals = np.full(s.shape, 1e3, np.float32)
    for root in tooth.roots:
        u = (t - height) / root.length
        middle = root.middle(np.clip(u, 0.0, 1.0))
        taper = np.clip(u, 0.0, 1.0)
        thick = root.width * (1.0 - 0.30 * taper - 0.42 * taper**3)
        shaft = smooth_max(np.abs(s - middle) - thick, t - height - root.length, 0.9 * root.width)
        shaft = np.maximum(shaft, -t + 0.6 * height)
        roots = smooth_min(roots, shaft, 0.8) if len(tooth.roots) > 1 else shaft
        canal = np.abs(s - middle) - tooth.pulp * (0.62 - 0.42 * taper)
        canals = np.minimum(canals, np.maximum(canal, np.maximum(u - 0.94, 0.02 - u) * root.length))
    if len(tooth.roots) > 1:  # the trunk above the fork
        trunk = smooth_max(np.abs(s) - neck * half, t - height - 0.22 * tooth.roots[0].length, 1.5)
        roots = smooth_min(roots, np.maximum(trunk, 0.6 * height - t), 1.0)
    whole = smooth_min(top, roots, 0.5)
    whole = np.where(t < height, np.minimum(top, np.maximum(roots, 0.8 * height - t)), roots)
    rise = np.clip((height - t) / height, 0.0, 1.0)
    thickness = (0.45 + 0.55 * (tooth.kind in ("molar", "premolar"))) * 0.35 + 1.25 * rise**0.55
    core = crown + thickness * (rise > 0)
    horn = 0.62 * height
    wide_pulp = tooth.pulp * {"incisor": 0.9, "canine": 0.9, "premolar": 1.0, "molar": 2.1}[tooth.kind]
    body = np.abs(s) - wide_pulp * (0.55 + 0.45 * np.clip((t - horn) / (0.5 * height), 0.0, 1.0))
    fork = height + (0.12 * tooth.roots[0].length if len(tooth.roots) > 1 else 0.6)
    chamber = smooth_max(body, smooth_max(horn - t, t - fork, 0.8), 0.8)
    return ToothMaps(s, t, whole, crown, core, np.minimum(chamber, canals), canals)


def shares_of(maps: ToothMaps, tooth: Tooth, softness: float) -> tuple[Floats, Floats, Floats]:
    """The share of each pixel (h, w) in the tooth, in enamel, and in the pulp."""
    whole = coverage(maps.whole, softness)
    enamel = coverage(maps.crown, softness) * (1.0 - coverage(maps.core, softness + 0.3))
    enamel *= np.clip((tooth.crown + 0.3 - maps.t) / 1.0, 0.0, 1.0)
    return whole, np.minimum(enamel, whole), coverage(maps.pulp, softness + 0.25)
