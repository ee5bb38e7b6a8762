"""Lesions: caries, periapical lesions, bone loss and fractures, each with its mask.

A lesion removes a share of what the beam meets there and changes nothing far from it, so the same person without the
lesion differs only there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.phantoms.dental.dentition import Dentition, jaw_of
from medgen.phantoms.dental.teeth import Tooth, maps_of
from medgen.phantoms.dental.view import Attenuations
from medgen.phantoms.outlines import Outline
from medgen.phantoms.primitives import Floats, Harmonics, Window, coverage, superellipse

Bools = npt.NDArray[np.bool_]
SEEN = 0.3  # of a lesion's strongest change: what counts as part of it
SPONGY = 0.2  # attenuation of bone that can hold a periapical lesion
LEAST = 0.045  # mean attenuation that a lesion must remove to be visible at all


@dataclass(frozen=True)
class Lesion:
    """One finding: where it is (a tooth's FDI number) and its pixels (H, W)."""

    kind: str
    tooth: int
    mask: Bools


@dataclass(frozen=True)
class Bite:
    """What a lesion removes: the shares of tooth, bone and soft tissue that are lost where `cover` (h, w) is 1."""

    window: Window
    cover: Floats
    outline: Floats  # (h, w), 1 where the mask may be
    hard: float = 0.0
    bone: float = 0.0
    soft: float = 0.0


def add_lesion(
    rng: np.random.Generator, kind: str, picture: Attenuations, dentition: Dentition, severity: float, taken: set[int]
) -> Lesion | None:
    """Paint one lesion of `kind` at a tooth in the picture and not `taken`; None where none would be visible."""
    teeth = [tooth for tooth in dentition.present if tooth.number not in taken and _suits(kind, tooth, picture)]
    for index in rng.permutation(len(teeth)):
        bite = _BITES[kind](rng, picture, dentition, teeth[index], severity)
        if bite is not None:
            mask = _take(picture, bite)
            if mask is not None:
                return Lesion(kind, teeth[index].number, mask)
    return None


def _suits(kind: str, tooth: Tooth, picture: Attenuations) -> bool:
    """Whether such a lesion can be at that tooth: well inside the picture, and not hidden by metal."""
    if tooth.screw or (tooth.number % 10 == 8 and kind != "caries") or (kind == "caries" and tooth.repairs):
        return False
    rows, columns = tooth.window(picture.x, picture.y, 0.0)
    height, width = picture.x.shape
    edge = int(6.0 / picture.pixel)
    return bool(
        rows.stop > rows.start > 0 and rows.stop < height and edge < columns.start and columns.stop < width - edge
    )


def _take(picture: Attenuations, bite: Bite) -> Bools | None:
    """Paint the bite and return its mask (H, W); if it would not be visible, paint nothing and return None."""
    window, inside = bite.window, bite.cover > 0.5
    parts = ((picture.hard, bite.hard), (picture.bone, bite.bone), (picture.soft, bite.soft))
    change = np.zeros_like(bite.cover)
    for field, part in parts:
        change += field[window] * np.float32(part) * bite.cover
    if inside.sum() < 3 or float(np.mean(change[inside])) < LEAST:
        return None
    for field, part in parts:
        field[window] *= 1.0 - np.float32(part) * bite.cover
    smooth = ndimage.gaussian_filter(change, 0.5 / picture.pixel)
    mask = np.zeros(picture.x.shape, bool)
    mask[window] = (bite.outline > 0.5) & (smooth > SEEN * np.percentile(smooth[inside], 90.0))
    return mask if mask.any() else None


def _blob(rng: np.random.Generator, s: Any, t: Any, radii: tuple[float, float], rough: float) -> Floats:
    """Distance to an irregular ellipse around 0."""
    wobble = Harmonics.draw(rng, rough)
    return superellipse(s, t, *radii) - wobble(np.arctan2(t, s), 0.0) * min(radii)  # type: ignore[no-any-return]


def _caries(
    rng: np.random.Generator, picture: Attenuations, dentition: Dentition, tooth: Tooth, severity: float
) -> Bite:
    """A bite out of a crown: between two teeth, in the biting surface, or at the neck."""
    window = tooth.window(picture.x, picture.y)
    maps = maps_of(tooth, picture.x[window], picture.y[window])
    half, side, size = 0.5 * tooth.width, rng.choice((-1.0, 1.0)), 0.6 + 0.6 * severity
    kind = rng.random()
    if kind < 0.6 or tooth.kind in ("incisor", "canine"):
        s, t = side * 0.88 * half, rng.uniform(0.38, 0.62) * tooth.crown
        radii = (size * rng.uniform(1.6, 2.3), size * rng.uniform(1.5, 2.1))
    elif kind < 0.85:
        s, t = rng.uniform(-0.25, 0.25) * half, 0.22 * tooth.crown
        radii = (size * rng.uniform(1.8, 2.7), size * rng.uniform(1.6, 2.2))
    else:
        s, t = side * 0.72 * half, rng.uniform(0.88, 1.05) * tooth.crown
        radii = (size * rng.uniform(1.4, 1.9), size * rng.uniform(1.4, 2.0))
    cover = coverage(_blob(rng, maps.s - s, maps.t - t, radii, 0.12), 0.9) * coverage(maps.whole, picture.softness)
    return Bite(window, cover, cover, hard=0.35 + 0.4 * severity)


def _periapical(
    rng: np.random.Generator, picture: Attenuations, dentition: Dentition, tooth: Tooth, severity: float
) -> Bite | None:
    """A round dark halo at the tip of a root; none where the tip is in a sinus, which has no bone to lose."""
    root = tooth.roots[rng.integers(min(2, len(tooth.roots)))]
    radius = rng.uniform(1.9, 2.6) + 1.9 * severity
    x0, y0 = tooth.place(float(root.middle(1.0)), tooth.crown + root.length + 0.35 * radius)
    reach = radius + 4.0
    window = picture.window((x0 - reach, x0 + reach), (y0 - reach, y0 + reach))
    away = _blob(rng, picture.x[window] - x0, picture.y[window] - y0, (radius, radius * rng.uniform(0.85, 1.2)), 0.07)
    cover = coverage(away.astype(np.float32), 1.3)
    if (cover > 0.5).sum() < 3 or float(picture.bone[window][cover > 0.5].mean()) < SPONGY:
        return None
    return Bite(window, cover, cover, bone=0.5 + 0.4 * severity, soft=0.04)


def _bone_loss(
    rng: np.random.Generator, picture: Attenuations, dentition: Dentition, tooth: Tooth, severity: float
) -> Bite:
    """The bone's edge recedes along a few roots, most in the middle."""
    crest = dentition.crests[jaw_of(tooth)]
    wide = rng.uniform(7.0, 11.0) + 7.0 * severity
    depth = rng.uniform(3.0, 4.2) + 3.2 * severity
    edge = float(np.interp(tooth.x, crest[:, 0], crest[:, 1]))
    window = picture.window((tooth.x - wide, tooth.x + wide), (edge - 12.0, edge + 12.0))
    x, y = picture.x[window], picture.y[window]
    along = np.clip(1.0 - np.abs((x - np.float32(tooth.x)) / np.float32(wide)) ** 2.5, 0.0, 1.0)
    ragged = 0.5 * np.sin(x * 0.9 + rng.uniform(0.0, 6.0)) + 0.35 * np.sin(x * 1.9 + rng.uniform(0.0, 6.0))
    below = (y - picture.level(crest)[window]) * np.float32(tooth.up)  # mm from the healthy edge into the bone
    lost = coverage((below - (np.float32(depth) + ragged) * along).astype(np.float32), 1.2)
    cover = lost * np.clip(6.0 * along, 0.0, 1.0) * coverage(-below - np.float32(0.7), 0.8)
    return Bite(window, cover, cover, bone=0.60 + 0.35 * severity)


def _fracture(
    rng: np.random.Generator, picture: Attenuations, dentition: Dentition, tooth: Tooth, severity: float
) -> Bite | None:
    """A thin dark line: through the lower jaw, whose parts are shifted against each other, or across a root."""
    through_jaw = jaw_of(tooth) == "lower" and 2 <= tooth.number % 10 <= 7 and rng.random() < 0.75
    if through_jaw:
        crest = dentition.crests["lower"]
        x0 = tooth.x + 0.5 * tooth.width
        y0 = float(np.interp(x0, crest[:, 0], crest[:, 1])) - 0.5
        steps = np.linspace(0.0, 1.0, 8)
        line = np.stack([x0 + rng.normal(0.0, 7.0) * steps, y0 + (47.0 - y0) * steps], axis=1)
        line[1:-1] += rng.normal(0.0, 0.8, (6, 2))
        _shift(picture, line, (0.4 + 0.9 * severity) * rng.choice((-1.0, 1.0)), float(np.sign(tooth.x)))
        thick, taken = 0.5 + 0.5 * severity, {"bone": 0.5 + 0.3 * severity, "hard": 0.3}
    else:
        root = tooth.roots[0]
        u, slope = rng.uniform(0.25, 0.6), rng.uniform(-0.6, 0.6)
        t, middle = tooth.crown + u * root.length, float(root.middle(u))
        ends = [(-1.35 * root.width, -slope), (0.0, 0.15), (1.35 * root.width, slope)]
        line = np.array([tooth.place(middle + s, t + dt * root.width) for s, dt in ends])
        thick, taken = 0.4 + 0.35 * severity, {"hard": 0.45 + 0.35 * severity, "bone": 0.2}
    window, away = Outline(line, closed=False).distance(picture.x, picture.y, 3.0)
    if not away.size:
        return None
    cover = coverage(away - np.float32(0.5 * thick), max(0.6, picture.softness))
    return Bite(window, cover, coverage(away - np.float32(0.5 * thick + 0.35), 0.1), **taken)


def _shift(picture: Attenuations, line: npt.NDArray[np.float64], step: float, side: float) -> None:
    """Move the lower jaw beyond a line of places (x, y) by `step` mm along it, fading out within 12 mm."""
    reach = 12.0
    x0, y0 = float(line[:, 0].mean()), float(line[0, 1])
    window = picture.window((x0 - reach - 8.0, x0 + reach + 8.0), (0.0, 50.0))
    x, y = picture.x[window], picture.y[window]
    beyond = (x - np.interp(y, line[:, 1], line[:, 0])) * side
    amount = (
        step * np.clip(1.0 - beyond / reach, 0.0, 1.0) ** 2 * (beyond > 0) * np.clip((y - 0.5 * y0) / 3.0, 0.0, 1.0)
    )
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]].astype(np.float32)
    source = (rows - amount / picture.pixel, columns)
    for field in (picture.bone, picture.hard, picture.metal):
        field[window] = ndimage.map_coordinates(field[window], source, order=1, mode="nearest")


_BITES: dict[str, Callable[[np.random.Generator, Attenuations, Dentition, Tooth, float], Bite | None]] = {
    "caries": _caries,
    "periapical": _periapical,
    "bone-loss": _bone_loss,
    "fracture": _fracture,
}
