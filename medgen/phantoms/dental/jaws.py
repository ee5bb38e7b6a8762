"""Everything of a panoramic X-ray that is not a tooth: jaws, sinuses, nose, airways, spine and their ghosts.

All amounts are attenuations, which add up along the beam; the soft parts of a cheek have about 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.phantoms.dental.view import Attenuations
from medgen.phantoms.outlines import Outline
from medgen.phantoms.primitives import Floats, LatticeNoise, coverage

RAMUS = (
    (0, 45.5), (10, 45.2), (22, 43.8), (36, 42), (50, 40.5), (62, 39), (72, 35), (79, 27), (82, 15), (84, 0), (86, -13),
    (89, -23), (92, -29), (95, -34), (95, -39), (91, -42.5), (86, -41), (83, -36), (82, -30), (78, -22), (74, -18.5),
    (70, -20), (67, -26), (64.5, -33), (61, -35), (58.5, -29), (58, -14), (60, -2), (62, 6), (60, 9), (50, 6),
    (30, 5), (0, 5),
)  # fmt: skip
MAXILLA = (
    (0, -5), (30, -5), (55, -5), (62, -8), (65, -14), (64, -24), (62, -34), (56, -44), (40, -47), (20, -46), (0, -44),
)  # fmt: skip
SINUS = (
    (22, -29), (25, -24.5), (33, -22.5), (43, -21), (51, -21.5), (57, -26), (57.5, -34), (52, -42), (42, -46),
    (31, -44), (25, -38),
)  # fmt: skip
NOSE = ((1.5, -28), (8, -26.5), (13.5, -28.5), (16.5, -36), (15.5, -46), (12, -54), (3, -56), (1.5, -42))
CHEEK = ((46, -48), (42, -36), (44, -29), (49, -28), (53, -35), (60, -38), (74, -38), (88, -40), (101, -42))
CANAL = ((70, -4), (68, 8), (63, 19), (54, 27), (45, 31), (36, 31), (31.5, 27.5))


@dataclass(frozen=True)
class Jaws:
    """One person's skull around the teeth."""

    mandible: Outline
    maxilla: Outline
    sinuses: tuple[Outline, Outline]
    noses: tuple[Outline, Outline]
    cheeks: tuple[Outline, Outline]
    canals: tuple[Outline, Outline]
    density: float  # of spongy bone
    ghost: float  # of the spine
    airway: float  # how much air lies over the tongue
    nature: npt.NDArray[np.float64]  # (16,) in [0, 1), random variation
    fine: LatticeNoise
    medium: LatticeNoise
    coarse: LatticeNoise
    broad: LatticeNoise

    @staticmethod
    def draw(rng: np.random.Generator) -> Jaws:
        """A random adult."""

        def both(points: Any, jitter: float, *, closed: bool = True) -> tuple[Outline, Outline]:
            base = np.asarray(points, np.float64)
            shape = base + rng.normal(0.0, jitter, base.shape)
            left, right = (shape + rng.normal(0.0, 0.5 * jitter, base.shape) for _ in range(2))
            return Outline.smooth(left, closed=closed).mirrored(), Outline.smooth(right, closed=closed)

        height = rng.normal(0.0, 1.8)
        ramus = np.asarray(RAMUS, np.float64)
        ramus[:, 1] += height * np.clip((ramus[:, 1] - 20.0) / 20.0, 0.0, 1.0)
        ramus[8:28, 0] += rng.normal(0.0, 1.5)
        return Jaws(
            mandible=_whole(rng, ramus, 0.7),
            maxilla=_whole(rng, np.asarray(MAXILLA, np.float64), 0.8),
            sinuses=both(np.asarray(SINUS) + rng.normal(0.0, 1.5, 2), 1.0),
            noses=both(NOSE, 0.6),
            cheeks=both(CHEEK, 1.0, closed=False),
            canals=both(np.add(CANAL, (0.0, 0.6 * height)), 0.6, closed=False),
            density=rng.uniform(0.34, 0.5),
            ghost=rng.uniform(0.15, 0.5),
            airway=rng.uniform(0.0, 0.30) if rng.random() < 0.7 else 0.0,
            nature=rng.random(16),
            fine=LatticeNoise(rng, 0.55, extent=130.0, depth=0.0),
            medium=LatticeNoise(rng, 1.15, extent=240.0, depth=0.0),
            coarse=LatticeNoise(rng, 3.0, extent=240.0, depth=0.0),
            broad=LatticeNoise(rng, 14.0, extent=400.0, depth=0.0),
        )

    def paint(self, picture: Attenuations, crests: dict[str, npt.NDArray[np.float64]]) -> None:
        """Fill `soft` and `bone`."""
        self._soft(picture)
        self._mandible(picture, crests["lower"])
        self._maxilla(picture, crests["upper"])
        self._face(picture)
        self._ghosts(picture)

    def trabeculae(self, picture: Attenuations) -> Floats:
        """The net of spongy bone, about -1 to 1: fine struts around marrow."""
        fine, medium, coarse, broad = (
            noise.plane(0.0, picture.across, picture.down)
            for noise in (self.fine, self.medium, self.coarse, self.broad)
        )
        struts = 0.8 - 1.3 * np.abs(medium) + 0.7 * fine
        net: Floats = (0.55 * struts + 0.35 * coarse + 0.25 * broad).astype(np.float32)
        return net

    def _soft(self, picture: Attenuations) -> None:
        x, y = picture.x, picture.y
        soft = np.full(x.shape, 0.95, np.float32)
        soft -= np.float32(0.30) * _step(y, 46.0, 8.0) * _step(-np.abs(x), -80.0, 25.0)  # below the chin
        soft -= np.float32(0.22) * _step(-y, 44.0, 12.0)  # towards the orbits
        soft += np.float32(0.10) * _step(np.abs(x), 66.0, 12.0)  # masseter
        lips = np.exp(-((x / 17.0) ** 2)) * np.exp(-(((y - 1.0) / 9.0) ** 2))
        soft -= np.float32(0.10 + 0.12 * self.nature[0]) * lips.astype(np.float32)
        picture.soft += soft
        edge = -26.0 + 0.0022 * x * x + 1.5 * np.sin(x / 19.0 + 6.0 * self.nature[1])  # between palate and tongue
        band = _bump(y, edge + 1.0, 3.5 + 3.0 * self.nature[2]) * _step(-np.abs(x), -62.0, 8.0)
        picture.soft -= np.float32(self.airway) * band
        for side in (-1.0, 1.0):  # the airway behind the tongue, over the ramus
            middle = side * (66.0 + 0.22 * (y + 10.0) + 4.0 * self.nature[3])
            wide = 6.0 + 4.0 * self.nature[4]
            throat = _bump(x, middle, wide) * _step(y, -30.0, 12.0) * _step(-y, -44.0, 14.0)
            picture.soft -= np.float32(0.16 + 0.14 * self.nature[5]) * throat

    def _mandible(self, picture: Attenuations, crest: npt.NDArray[np.float64]) -> None:
        _, distance = picture.smooth_distance(self.mandible)
        x, y = picture.x, picture.y
        top = picture.level(crest)
        body = np.maximum(distance, np.where(np.abs(x) < 60.0, top - y, np.float32(-50.0)))
        inside = coverage(body, max(0.5, picture.softness))
        net = picture.net
        thick = np.clip(-body / 6.0, 0.0, 1.0) ** 0.6
        ramus = _step(np.abs(x), 60.0, 9.0)
        spongy = np.float32(self.density) * (0.55 + 0.45 * thick) * (1.0 - 0.28 * ramus) + 0.075 * net * (
            1.0 - 0.4 * ramus
        )
        low = _step(y, 22.0, 14.0) * (1.0 - ramus)
        cortex = _shell(distance, 1.1 + 1.4 * low, 0.9) * (0.16 + 0.30 * low)
        cortex *= np.clip(np.maximum(y - top - 4.0, 0.0) / 6.0, 0.0, 1.0) * (1 - ramus) + ramus
        crestal = _shell(body, 0.5, 0.6) * 0.10
        picture.bone += inside * (spongy + cortex + crestal)
        for outline in self.canals:
            window, away = outline.distance(x, y, 4.0)
            if not away.size:
                continue
            tube = coverage(away - np.float32(1.25), 1.0)
            walls = coverage(np.abs(away - np.float32(1.7)) - np.float32(0.3), 0.6)
            fade = inside[window] * _step(x[window] * np.sign(x[window]), 33.0, 4.0)
            strength = np.float32(0.10 + 0.12 * self.nature[6])
            picture.bone[window] -= strength * tube * fade
            picture.bone[window] += np.float32(0.35) * strength * walls * fade
            end = outline.points[-1]
            hole = np.exp(-(((x[window] - end[0]) / 1.6) ** 2 + ((y[window] - end[1]) / 1.3) ** 2))
            picture.bone[window] -= np.float32(0.5 * strength) * hole.astype(np.float32) * inside[window]
        for side in (-1.0, 1.0):  # oblique ridges, from the ramus forward
            ridge = Outline.smooth([(side * 59, -14), (side * 59, 0), (side * 55, 10), (side * 46, 17)], closed=False)
            window, away = ridge.distance(x, y, 5.0)
            fade = np.exp(-((away / 1.3) ** 2)) * inside[window]
            picture.bone[window] += np.float32(0.10 + 0.12 * self.nature[7]) * fade

    def _maxilla(self, picture: Attenuations, crest: npt.NDArray[np.float64]) -> None:
        _, distance = picture.smooth_distance(self.maxilla)
        x, y = picture.x, picture.y
        bottom = picture.level(crest)
        body = np.maximum(distance, np.where(np.abs(x) < 64.0, y - bottom, np.float32(-50.0)))
        inside = coverage(body, max(0.5, picture.softness))
        thick = np.clip(-body / 7.0, 0.0, 1.0) ** 0.6
        fade = (1.0 - 0.5 * _step(-y, 25.0, 14.0)) * (1.0 - 0.45 * _step(np.abs(x), 62.0, 10.0))
        spongy = np.float32(0.92 * self.density) * (0.6 + 0.4 * thick) * fade + 0.075 * picture.net * fade
        picture.bone += inside * (spongy + 0.08 * _shell(body, 0.5, 0.6))
        hollow = np.zeros_like(distance)
        for outline in self.sinuses:
            window, away = picture.smooth_distance(outline, 6.0)
            hollow[window] = np.maximum(hollow[window], coverage(away, 0.8))
            wall = np.exp(-(((away + 0.2) / 0.55) ** 2))
            picture.bone[window] += np.float32(0.16 + 0.08 * self.nature[8]) * wall
        picture.bone *= 1.0 - np.float32(0.38 + 0.22 * self.nature[15]) * hollow
        picture.soft -= np.float32(0.06 + 0.12 * self.nature[9]) * hollow
        nasal = np.zeros_like(distance)
        for outline in self.noses:
            window, away = picture.smooth_distance(outline, 5.0)
            nasal[window] = np.maximum(nasal[window], coverage(away, 0.9))
            picture.bone[window] += np.float32(0.14) * np.exp(-(((away + 0.1) / 0.6) ** 2))
        picture.bone *= 1.0 - np.float32(0.75) * nasal
        picture.soft -= np.float32(0.24) * nasal
        for side in (-1.0, 1.0):  # the lower conchae
            across, down = x - side * (9.5 + 2.0 * self.nature[10]), y + 37.0
            shell = np.exp(-((across / 4.2) ** 2) - (down / 6.5) ** 2)
            picture.soft += np.float32(0.20) * shell.astype(np.float32)

    def _face(self, picture: Attenuations) -> None:
        x, y = picture.x, picture.y
        reach = np.clip(1.0 - np.abs(x) / 64.0, 0.0, 1.0) ** 0.3
        for depth, strength in ((-27.5, 0.20), (-31.0 - 2.0 * self.nature[11], 0.10)):  # hard palate and its ghost
            line = y - (depth + 0.0009 * x * x)
            picture.bone += np.float32(strength) * np.exp(-((line / 0.7) ** 2)) * reach
        for outline in self.cheeks:
            window, away = outline.distance(x, y, 9.0)
            picture.bone[window] += np.float32(0.20) * np.exp(-((away / 2.6) ** 2))
            picture.bone[window] += np.float32(0.12) * np.exp(-((away / 0.7) ** 2))
        for side in (-1.0, 1.0):
            styloid = Outline.smooth(
                [(side * 96, -34), (side * 95, -18), (side * 92, -4), (side * 90, 2)], closed=False
            )
            window, away = styloid.distance(x, y, 4.0)
            picture.bone[window] += np.float32(0.14) * np.exp(-((away / 1.1) ** 2))
            hyoid = Outline.smooth([(side * 62, 47), (side * 50, 50), (side * 36, 52), (side * 24, 55)], closed=False)
            window, away = hyoid.distance(x, y, 7.0)
            picture.bone[window] += np.float32(0.22) * np.exp(-((away / 2.2) ** 2))
            fossa = Outline.smooth(
                [(side * 78, -44), (side * 86, -46), (side * 94, -42), (side * 100, -40)], closed=False
            )
            window, away = fossa.distance(x, y, 6.0)
            picture.bone[window] += np.float32(0.22) * np.exp(-((away / 1.6) ** 2))
            orbit = Outline.smooth(
                [(side * 16, -56), (side * 26, -50), (side * 40, -49), (side * 52, -54)], closed=False
            )
            window, away = orbit.distance(x, y, 5.0)
            picture.bone[window] += np.float32(0.20) * np.exp(-((away / 1.0) ** 2))

    def _ghosts(self, picture: Attenuations) -> None:
        """Blurred shadows of what lies behind: the spine in the middle and at the edges, the other side's jaw."""
        x, y = picture.x, picture.y
        middle = np.exp(-((np.abs(x) / 19.0) ** 3.0)) * (0.55 + 0.45 * _step(y, 0.0, 30.0))
        picture.soft += np.float32(self.ghost) * middle.astype(np.float32)
        for side in (-1.0, 1.0):
            spine = _step(side * x, 101.0 + 3.0 * self.nature[12], 5.0) * _step(y, -40.0, 20.0)
            disc = 0.85 + 0.15 * np.cos((y + 20.0 * self.nature[13]) / 2.4)
            picture.soft += np.float32(0.30) * (spine * disc).astype(np.float32)
            line = y + 22.0 - 0.22 * (side * x - 40.0)
            ghost = _bump(line, 0.0, 14.0) * _bump(side * x, 66.0, 36.0)
            picture.soft += np.float32(0.06 + 0.10 * self.nature[14]) * ghost


def _whole(rng: np.random.Generator, half: npt.NDArray[np.float64], jitter: float) -> Outline:
    """A closed outline from its right half, both sides nearly alike; the half begins and ends on the midline."""
    wobble = rng.normal(0.0, jitter, half.shape)
    wobble[:4] *= 0.4  # the chin
    right, left = (half + wobble + rng.normal(0.0, 0.4 * jitter, half.shape) for _ in range(2))
    left = left * [-1.0, 1.0]
    for ends in (0, -1):
        right[ends] = (0.0, half[ends, 1])
    return Outline.smooth(np.concatenate([right, left[-2:0:-1]]))


def _step(value: Any, edge: Any, width: float) -> Floats:
    """0 below `edge`, 1 above it, smooth over `width`."""
    u = np.clip((value - edge) / np.float32(width) + np.float32(0.5), 0.0, 1.0)
    return (u * u * (3.0 - 2.0 * u)).astype(np.float32)  # type: ignore[no-any-return]


def _bump(value: Any, middle: Any, width: float) -> Floats:
    """1 at `middle`, falling to 0 at distance `width`."""
    u = np.clip(1.0 - np.abs(value - middle) / np.float32(width), 0.0, 1.0)
    return (u * u * (3.0 - 2.0 * u)).astype(np.float32)  # type: ignore[no-any-return]


def _shell(distance: Floats, thick: Any, soft: float) -> Floats:
    """1 in the outermost `thick` mm of a shape."""
    shell: Floats = np.clip((distance + thick) / np.float32(soft) + np.float32(0.5), 0.0, 1.0) * (distance < 0.6)
    return shell
