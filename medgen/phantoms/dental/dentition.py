"""One person's teeth: which are present, how they stand, and which were treated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.phantoms.dental.teeth import CROWNS, KINDS, ROOTS, WIDTHS, Root, Tooth

QUADRANTS = {("upper", -1): 10, ("upper", 1): 20, ("lower", 1): 30, ("lower", -1): 40}  # side -1 is the image's left
CREST = 1.6  # mm from a tooth's neck to the healthy bone's edge


@dataclass(frozen=True)
class Dentition:
    """All teeth, missing ones too (`absent`), and the edge of the bone that carries them."""

    teeth: tuple[Tooth, ...]
    crests: dict[str, npt.NDArray[np.float64]]  # jaw -> (N, 2): x and y along the edge

    @staticmethod
    def draw(rng: np.random.Generator) -> Dentition:
        """A random adult."""
        scale = rng.normal(1.0, 0.04)
        gap = rng.uniform(1.5, 5.0)  # between the front teeth, held apart by the bite block
        mended = rng.beta(1.1, 4.0)  # share of back teeth with dental work
        lost = rng.beta(0.7, 9.0)
        age = rng.random()
        crowding = rng.uniform(-0.35, 0.3)
        teeth = []
        for jaw in ("upper", "lower"):
            for side in (-1, 1):
                teeth += _quadrant(rng, jaw, side, scale, gap, crowding, mended, lost, age)
        crests = {jaw: _crest(rng, [tooth for tooth in teeth if jaw_of(tooth) == jaw], age) for jaw in WIDTHS}
        return Dentition(tuple(teeth), crests)

    @property
    def present(self) -> list[Tooth]:
        """The teeth and implants that are present."""
        return [tooth for tooth in self.teeth if not tooth.absent]


def jaw_of(tooth: Tooth) -> str:
    """The jaw, upper or lower."""
    return "upper" if tooth.up < 0 else "lower"


def _quadrant(
    rng: np.random.Generator,
    jaw: str,
    side: int,
    scale: float,
    gap: float,
    crowding: float,
    mended: float,
    lost: float,
    age: float,
) -> list[Tooth]:
    """Eight teeth from the midline back."""
    teeth = []
    edge = 0.15 * rng.standard_normal()
    for place in range(8):
        width = WIDTHS[jaw][place] * scale * rng.normal(1.0, 0.025)
        crown = CROWNS[jaw][place] * scale * rng.normal(1.0, 0.05)
        middle = edge + 0.5 * width
        edge += width - crowding * (place < 6) * rng.random() + 0.05
        open_ = 0.5 * gap * float(np.clip(1.0 - (middle - 6.0) / 30.0, 0.12, 1.0)) + rng.normal(0.0, 0.25)
        absent = bool(rng.random() < lost * (1.0 if place > 2 else 0.35))
        lean = _lean(jaw, place) + rng.normal(0.0, 2.2)
        sink = 0.0
        if place == 7:
            fate = rng.random()
            absent = bool(fate < 0.4)
            if fate > 0.78:  # impacted
                lean += rng.uniform(15.0, 70.0) * (1.0 if jaw == "lower" else -0.6)
                sink = rng.uniform(2.0, 7.0) if jaw == "lower" else rng.uniform(3.0, 8.0)
                middle += 1.5
        screw = bool(absent and place < 7 and rng.random() < 0.35)
        sign = -1.0 if jaw == "upper" else 1.0
        tooth = Tooth(
            number=QUADRANTS[jaw, side] + place + 1,
            x=side * middle,
            y=sign * (open_ + sink + 0.25),
            tilt=side * np.deg2rad(lean),
            width=width,
            crown=crown,
            roots=_roots(rng, jaw, side, place, width, ROOTS[jaw][place] * scale),
            cusps={"incisor": 1, "canine": 1, "premolar": 2 - (rng.random() < 0.4), "molar": 2 + (rng.random() < 0.3)}[
                KINDS[place]
            ],
            pulp=rng.uniform(0.8, 1.25) * (1.15 - 0.5 * age),
            repairs=() if absent else _repairs(rng, place, mended),
            build=rng.random(),
            screw=screw,
            absent=absent and not screw,
        )
        teeth.append(tooth)
    return teeth


def _lean(jaw: str, place: int) -> float:
    """The angle, in degrees, by which roots lean backwards."""
    return float(((4, 6, 9, 6, 4, 5, 8, 14) if jaw == "upper" else (1, 2, 5, 6, 7, 9, 14, 20))[place])


def _roots(rng: np.random.Generator, jaw: str, side: int, place: int, width: float, length: float) -> tuple[Root, ...]:
    half = 0.5 * width
    bend = rng.normal(0.6, 0.8)
    kind = KINDS[place]
    if kind != "molar":
        wide = {"incisor": 0.70, "canine": 0.76, "premolar": 0.74}[kind] * half
        return (Root(0.0, 0.0, side * bend, length * rng.normal(1.0, 0.06), wide),)
    spread = rng.uniform(0.10, 0.32) * half * (0.4 if place == 7 else 1.0)
    roots = [
        Root(
            where * 0.40 * half,
            where * 1.6 * spread,
            -where * 0.5 * spread + 0.5 * side * bend,
            length * rng.normal(1.0, 0.05),
            (0.40 if jaw == "lower" else 0.36) * half,
        )
        for where in (-1.0, 1.0)
    ]
    if jaw == "upper":  # the palatal root, seen between the others
        roots.append(Root(0.0, 0.3 * bend, 0.0, length * rng.normal(1.04, 0.05), 0.36 * half))
    return tuple(roots)


def _repairs(rng: np.random.Generator, place: int, mended: float) -> tuple[str, ...]:
    """The dental work on one tooth."""
    rate = mended * (1.0, 1.5)[3 <= place < 7] * (0.4 if place < 3 else 1.0)
    if rng.random() > rate:
        return ()
    what = rng.random()
    if what < 0.45:
        return ("amalgam",) if place > 3 else ("composite",)
    if what < 0.65:
        return ("composite",)
    if what < 0.80:
        return ("crown",)
    return ("root-canal", "crown" if rng.random() < 0.6 else "composite")


def _crest(rng: np.random.Generator, teeth: list[Tooth], age: float) -> npt.NDArray[np.float64]:
    """Places along the bone's edge: a peak between two teeth, lower where one is missing."""
    nodes = []
    for tooth in sorted(teeth, key=lambda tooth: tooth.x):
        if tooth.number % 10 == 8 and (tooth.absent or abs(tooth.tilt) > 0.6):
            continue
        level = 0.25 * tooth.up + tooth.up * (tooth.crown + CREST + 0.7 * age + rng.normal(0.0, 0.2)) + 0.4 * tooth.y
        if tooth.absent:
            level += tooth.up * rng.uniform(0.5, 3.0)
        peak = -0.7 * tooth.up
        half = 0.5 * tooth.width
        nodes += [(tooth.x - half, level + peak), (tooth.x, level), (tooth.x + half, level + peak)]
    line = np.array(nodes)
    ends = np.array([[line[0, 0] - 8.0, line[0, 1]], [line[-1, 0] + 8.0, line[-1, 1]]])
    line = np.concatenate([ends[:1], line, ends[1:]])
    line = line[np.argsort(line[:, 0], kind="stable")]
    places = np.arange(line[0, 0], line[-1, 0], 0.25)
    levels = np.interp(places, line[:, 0], line[:, 1])
    return np.stack([places, ndimage.gaussian_filter1d(levels, 4.0, mode="nearest")], axis=1)
