"""When a spot counts as the requested nodule, learned from images with known nodules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medgen.evaluation.conditioning.nodules import Spot

Vectors = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

LEAST_TOLERANCE = 0.05
"""A spot hits when its centre lies within the asked radius of the asked place, or within this share of the width."""
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
SHUFFLES = 20
FEWEST_SIZES = 20
"""Known nodules found below which measured sizes are taken as they are."""
MOST_SIZES = 2000
"""Known nodules by which the line is drawn: all pairs of them are looked at."""
LEAST_STRETCH = 0.25
"""A line flatter than this tells nothing of the labels' sizes."""


@dataclass(frozen=True)
class NoduleRule:
    """A spot's strength, contrast * scale^power, and the strength from which it counts as a nodule.

    A spot at the requested place needs less strength (`near`) than one anywhere else (`anywhere`). Measured sizes are
    `shortest` + `stretch` * the labels' sizes, since labels may be drawn along the longest axis, or wider than half
    maximum. The defaults were fitted to phantoms of 64 x 64 pixels with nodules of 24 to 56 mm.
    """

    power: float = 1.0
    anywhere: float = 21.0
    near: float = 11.0
    shortest: float = 0.0
    stretch: float = 1.0

    def strength(self, spot: Spot | None) -> float:
        """In HU * width^power; 0 for no spot."""
        return 0.0 if spot is None else float(spot.contrast * spot.scale**self.power)

    def strongest(self, spots: Sequence[Spot]) -> Spot | None:
        """The strongest spot, if there is any; without a place to expect one, medial spots are not trusted."""
        return max((spot for spot in spots if not spot.medial), key=self.strength, default=None)

    def at(self, spots: Sequence[Spot], asked: Vectors) -> Spot | None:
        """The strongest of the spots that hit the requested nodule, (4,)."""
        return max((spot for spot in spots if hits(spot, asked)), key=self.strength, default=None)

    def size(self, spot: Spot) -> float:
        """The spot's size as a share of the width, on the labels' scale."""
        return max((spot.size - self.shortest) / self.stretch, 0.0)

    def found(self, measured: Measured) -> list[Spot | None]:
        """The spot that counts as the requested nodule, for each slice."""
        pairs = zip(measured.spots, measured.asked, strict=True)
        there = [self.at(spots, asked) for spots, asked in pairs]
        return [spot if spot is not None and self.strength(spot) >= self.near else None for spot in there]


def hits(spot: Spot | None, asked: Vectors) -> bool:
    """Whether a spot lies where the nodule (has_nodule, x, y, size) was asked for."""
    if spot is None:
        return False
    return bool(np.hypot(spot.x - asked[1], spot.y - asked[2]) <= max(asked[3] / 2, LEAST_TOLERANCE))


@dataclass(frozen=True)
class Measured:
    """The spots of each slice, its requested condition (N, 4), its case, and its width in mm (NaN if unknown)."""

    spots: list[list[Spot]]
    asked: Vectors
    cases: Rows
    widths: Vectors

    def __getitem__(self, rows: Rows) -> Measured:
        return Measured([self.spots[row] for row in rows], self.asked[rows], self.cases[rows], self.widths[rows])

    def shuffled(self, random: np.random.Generator) -> Measured:
        """The same images with each other's conditions."""
        return Measured(self.spots, random.permutation(self.asked), self.cases, self.widths)

    @property
    def with_nodule(self) -> Measured:
        """The slices for which a nodule was requested."""
        return self[np.flatnonzero(self.asked[:, 0] > 0)]


def calibrate(known: Measured, random: np.random.Generator) -> NoduleRule:
    """Fit the rule to images with known nodules; the default rule where `known` shows none.

    The power is the one with which the strongest spot is most often the nodule. `anywhere` best separates slices with
    nodules from healthy ones, `near` right places from shuffled ones. Sizes are mapped to the labels by the repeated
    median line (Siegel 1982), which is robust to wrong spots.
    """
    from scipy.stats import siegelslopes

    sick = known.asked[:, 0] > 0
    if not sick.any():
        return NoduleRule()
    positive, healthy = known.with_nodule, known[np.flatnonzero(~sick)]

    def at_first(power: float) -> int:
        pairs = zip(positive.spots, positive.asked, strict=True)
        return sum(hits(NoduleRule(power).strongest(spots), asked) for spots, asked in pairs)

    rule = NoduleRule(max(POWERS, key=at_first))
    with_nodule, without = anywhere(positive, rule), anywhere(healthy, rule)
    somewhere = best_cut(with_nodule, without) if len(without) else float(np.quantile(with_nodule, 0.1))
    shuffled = np.concatenate([there(positive.shuffled(random), rule) for _ in range(SHUFFLES)])
    rule = replace(rule, anywhere=somewhere, near=best_cut(there(positive, rule), shuffled))
    pairs = zip(rule.found(positive), positive.asked[:, 3], strict=True)
    sizes = np.array([(label, spot.size) for spot, label in pairs if spot is not None], np.float64).reshape(-1, 2)
    if len(sizes) < FEWEST_SIZES or np.ptp(sizes[:, 0]) == 0:
        return rule
    some = sizes[random.permutation(len(sizes))[:MOST_SIZES]]
    stretch, shortest = siegelslopes(some[:, 1], some[:, 0])
    return replace(rule, shortest=float(shortest), stretch=float(stretch)) if stretch > LEAST_STRETCH else rule


def best_cut(positive: Vectors, negative: Vectors) -> float:
    """The threshold with the highest sensitivity + specificity (Youden 1950), halfway to the next lower value."""
    candidates = np.unique(positive)
    gain = [(positive >= cut).mean() - (negative >= cut).mean() for cut in candidates]
    cut = float(candidates[int(np.argmax(gain))])
    values = np.concatenate([positive, negative])
    return (cut + float(np.max(values[values < cut], initial=0.0))) / 2


def anywhere(measured: Measured, rule: NoduleRule) -> Vectors:
    """Strength of the strongest spot of each slice, (N,)."""
    return np.array([rule.strength(rule.strongest(spots)) for spots in measured.spots], np.float64)


def there(measured: Measured, rule: NoduleRule) -> Vectors:
    """Strength of the strongest spot at the asked place of each slice, (N,)."""
    pairs = zip(measured.spots, measured.asked, strict=True)
    return np.array([rule.strength(rule.at(spots, asked)) for spots, asked in pairs], np.float64)
