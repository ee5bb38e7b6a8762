"""What is ill: caries, periapical lesions, bone loss and fractures, each with its mask.

A lesion takes a share of what the beam meets in its place; nothing outside its reach changes, so that the same
person without it differs there alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.phantoms.dental_rows import Dentition, jaw_of
from medgen.phantoms.dental_teeth import Tooth, maps_of
from medgen.phantoms.dental_view import Picture
from medgen.phantoms.outlines import Outline
from medgen.phantoms.primitives import Floats, Harmonics, Window, coverage, superellipse

Bools = npt.NDArray[np.bool_]
SEEN = 0.4  # of the strongest change: what counts as part of the lesion


@dataclass(frozen=True)
class Lesion:
    """One finding: where it is (a tooth's FDI number) and which pixels (H, W) it takes."""

    kind: str
    tooth: int
    mask: Bools


def add_lesion(
    rng: np.random.Generator, kind: str, picture: Picture, dentition: Dentition, severity: float, taken: set[int]
) -> Lesion | None:
    """Paint one lesion of `kind` at a tooth that is in the picture and not `taken`; None where none will do."""
    teeth = [tooth for tooth in dentition.present if _suits(kind, tooth, picture) and tooth.number not in taken]
    if not teeth:
        return None
    tooth = teeth[rng.integers(len(teeth))]
    mask = _PAINTERS[kind](rng, picture, dentition, tooth, severity)
    return Lesion(kind, tooth.number, mask) if mask.any() else None


def _suits(kind: str, tooth: Tooth, picture: Picture) -> bool:
    """Whether such a lesion can be seen at that tooth: it lies well inside the picture, and no metal hides it."""
    place = tooth.number % 10
    if tooth.screw or (place == 8 and kind != "caries") or (kind == "caries" and tooth.repairs):
        return False
    window = tooth.window(picture.x, picture.y, 0.0)
    rows, columns = window
    height, width = picture.x.shape
    edge = int(6.0 / picture.pixel)
    return (
        rows.stop - rows.start > 0
        and columns.start > edge
        and columns.stop < width - edge
        and rows.start > 0
        and rows.stop < height
    )


def _blob(rng: np.random.Generator, s: Any, t: Any, radii: tuple[float, float], rough: float) -> Floats:
    """Distance to an irregular ellipse around 0."""
    wobble = Harmonics.draw(rng, rough)
    return superellipse(s, t, *radii) - wobble(np.arctan2(t, s), 0.0) * min(radii)  # type: ignore[no-any-return]


def _caries(rng: np.random.Generator, picture: Picture, dentition: Dentition, tooth: Tooth, severity: float) -> Bools:
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
    share = coverage(_blob(rng, maps.s - s, maps.t - t, radii, 0.12), 0.9) * coverage(maps.whole, picture.softness)
    return _take(picture, window, share, hard=0.35 + 0.4 * severity)


def _periapical(
    rng: np.random.Generator, picture: Picture, dentition: Dentition, tooth: Tooth, severity: float
) -> Bools:
    """A round dark halo at the tip of a root."""
    root = tooth.roots[rng.integers(min(2, len(tooth.roots)))]
    radius = rng.uniform(1.9, 2.6) + 1.9 * severity
    x0, y0 = tooth.place(float(root.middle(1.0)), tooth.crown + root.length + 0.35 * radius)
    reach = radius + 5.0
    window = picture.window((x0 - reach, x0 + reach), (y0 - reach, y0 + reach))
    away = _blob(rng, picture.x[window] - x0, picture.y[window] - y0, (radius, radius * rng.uniform(0.85, 1.2)), 0.07)
    share = coverage(away, 1.3)
    rim = np.exp(-(((away - 0.9) / 0.5) ** 2)) * float(rng.random() < 0.5)
    picture.bone[window] += (0.05 * rim * np.clip(picture.bone[window] / 0.3, 0.0, 1.0)).astype(np.float32)
    return _take(picture, window, share, bone=0.5 + 0.4 * severity, soft=0.05)


def _bone_loss(
    rng: np.random.Generator, picture: Picture, dentition: Dentition, tooth: Tooth, severity: float
) -> Bools:
    """The bone's edge sinks along a few roots; deepest in the middle."""
    jaw, up = jaw_of(tooth), tooth.up
    crest = dentition.crests[jaw]
    wide = rng.uniform(7.0, 11.0) + 7.0 * severity
    depth = rng.uniform(3.0, 4.2) + 3.2 * severity
    reach = wide + 2.0
    edge = float(np.interp(tooth.x, crest[:, 0], crest[:, 1]))
    window = picture.window((tooth.x - reach, tooth.x + reach), (edge - 14.0, edge + 14.0))
    x, y = picture.x[window], picture.y[window]
    top = picture.level(crest)[window]
    along = np.clip(1.0 - np.abs((x - np.float32(tooth.x)) / np.float32(wide)) ** 2.5, 0.0, 1.0)
    ragged = 0.5 * np.sin(x * 0.9 + rng.uniform(0.0, 6.0)) + 0.35 * np.sin(x * 1.9 + rng.uniform(0.0, 6.0))
    loss = np.float32(depth) * along + ragged * along
    below = (y - top) * np.float32(up)  # mm from the healthy edge into the bone
    share = coverage((below - loss).astype(np.float32), 1.2) * (below > -1.2)
    return _take(picture, window, share, bone=0.60 + 0.35 * severity)


def _fracture(rng: np.random.Generator, picture: Picture, dentition: Dentition, tooth: Tooth, severity: float) -> Bools:
    """A thin dark line: through the lower jaw, or across a root."""
    if jaw_of(tooth) == "lower" and 2 <= tooth.number % 10 <= 7 and rng.random() < 0.65:
        start = (tooth.x + 0.5 * tooth.width, float(np.interp(tooth.x, *dentition.crests["lower"].T)) - 1.0)
        lean = rng.normal(0.0, 7.0)
        steps = np.linspace(0.0, 1.0, 7)
        line = np.stack([start[0] + lean * steps, start[1] + (47.0 - start[1]) * steps], axis=1)
        line[1:-1] += rng.normal(0.0, 0.9, (5, 2))
        thick = 0.45 + 0.5 * severity
        parts = {"bone": 0.5 + 0.3 * severity, "hard": 0.3}
    else:
        root = tooth.roots[0]
        u, slope = rng.uniform(0.25, 0.6), rng.uniform(-0.6, 0.6)
        t, middle = tooth.crown + u * root.length, float(root.middle(u))
        ends = [(-1.35 * root.width, -slope), (0.0, 0.15), (1.35 * root.width, slope)]
        line = np.array([tooth.place(middle + s, t + dt * root.width) for s, dt in ends])
        thick = 0.35 + 0.35 * severity
        parts = {"hard": 0.45 + 0.35 * severity, "bone": 0.2}
    outline = Outline(line, closed=False)
    window, away = outline.distance(picture.x, picture.y, 3.0)
    if not away.size:
        return np.zeros(picture.x.shape, bool)
    share = coverage(away - np.float32(0.5 * thick), max(0.6, picture.softness))
    return _take(picture, window, share, near=coverage(away - np.float32(0.5 * thick + 0.4), 0.1), **parts)


def _take(
    picture: Picture,
    window: Window,
    share: Floats,
    *,
    hard: float = 0.0,
    bone: float = 0.0,
    soft: float = 0.0,
    near: Floats | None = None,
) -> Bools:
    """Remove those parts of teeth, bone and soft tissue where `share` (h, w) is 1; the mask of what changed (H, W)."""
    before = picture.hard[window] + picture.bone[window]
    for field, part in ((picture.hard, hard), (picture.bone, bone), (picture.soft, soft)):
        if part:
            field[window] *= 1.0 - np.float32(part) * share
    change = before - picture.hard[window] - picture.bone[window]
    mask = np.zeros(picture.x.shape, bool)
    if change.size:
        mask[window] = (share if near is None else near) > 0.5
        mask[window] &= (
            change > (SEEN if near is None else 0.1) * np.percentile(change[share > 0.5], 90.0)
            if (share > 0.5).any()
            else False
        )
    return mask


Painter = Callable[[np.random.Generator, Picture, Dentition, Tooth, float], Bools]
_PAINTERS: dict[str, Painter] = {
    "caries": _caries,
    "periapical": _periapical,
    "bone-loss": _bone_loss,
    "fracture": _fracture,
}
