"""One detector's scores of pixels, images and lesions, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.evaluation.anomaly.detection import (
    CODES,
    Counts,
    auroc,
    auroc_of_counts,
    average_precision,
    average_precision_of_counts,
    codes_of,
    dice_of_counts,
    threshold_code,
    value_of,
)
from medgen.evaluation.anomaly.lesions import lesions_of
from medgen.evaluation.anomaly.pixel_counts import PixelCounts
from medgen.evaluation.intervals import Interval, Rows, Values, fraction_interval, mean_interval, redraw, share_interval

Bools = npt.NDArray[np.bool_]
Result = dict[str, Any]


@dataclass(frozen=True)
class TestedSlice:
    """One tested slice: at the threshold, `hits` of `area` lesion pixels are marked, and `marked` pixels in all."""

    case: int
    kind: str
    score: float
    pixels: int = 0
    area: int = 0
    hits: int = 0
    marked: int = 0
    outlined: bool = False
    found: tuple[bool, ...] = ()
    """Its lesions, and whether enough of each is marked."""

    @property
    def dice(self) -> float:
        """Dice of the marked pixels with the lesion's."""
        return 2.0 * self.hits / max(self.marked + self.area, 1)


@dataclass
class Tally:
    """Collects a detector's maps of held-out normal slices, then of the tested ones."""

    rate: float
    overlap: float
    normal: str
    fitted: Counts = field(default_factory=lambda: np.zeros(CODES))
    pixels: dict[str, PixelCounts] = field(default_factory=dict)
    """Pixels of outlined slices, by kind."""
    slices: list[TestedSlice] = field(default_factory=list)

    def fit(self, maps: npt.NDArray[np.float32]) -> None:
        """Add maps (B, H, W) of held-out normal slices."""
        self.fitted += np.bincount(codes_of(maps).reshape(-1), minlength=CODES)

    @property
    def threshold(self) -> int | None:
        """The lowest code that is marked; None without held-out normal slices."""
        return threshold_code(self.fitted, self.rate) if self.fitted.any() else None

    def test(self, case: int, kind: str, score: float, image: npt.NDArray[np.float32], mask: Bools | None) -> None:
        """Add one tested slice: its map (H, W), and its mask (H, W) where its lesions are outlined."""
        if mask is None:
            self.slices.append(TestedSlice(case, kind, score))
            return
        codes, threshold = codes_of(image).reshape(image.shape), self.threshold
        self.pixels.setdefault(kind, PixelCounts()).add(case, codes, mask)
        marked = codes >= threshold if threshold is not None else np.zeros_like(mask)
        lesions = lesions_of(mask, codes, self.overlap)
        self.slices.append(
            TestedSlice(
                *(case, kind, score, mask.size, int(mask.sum()), int((marked & mask).sum()), int(marked.sum()), True),
                tuple(lesion.code >= (CODES if threshold is None else threshold) for lesion in lesions),
            )
        )

    def result(self, kinds: Sequence[str], *, seed: int) -> Result:
        """All figures of the slices of some kinds and of the normal ones; None where one is undefined."""
        slices = [one for one in self.slices if one.kind in kinds or one.kind == self.normal]
        cases = np.array([one.case for one in slices])
        ill = np.array([one.kind != self.normal for one in slices])
        scores = np.array([one.score for one in slices])
        result: Result = {
            "slices": int(ill.sum()),
            "image_auroc": _ranked(auroc, ill, scores, cases, seed),
            "image_average_precision": _ranked(average_precision, ill, scores, cases, seed),
        }
        parts = [self.pixels[kind] for kind in (*kinds, self.normal) if kind in self.pixels]
        pixels = reduce(PixelCounts.joined, parts) if any(kind in self.pixels for kind in kinds) else None
        for name, statistic in (
            ("pixel_auroc", auroc_of_counts),
            ("pixel_average_precision", average_precision_of_counts),
            ("best_dice", lambda hit, missed: dice_of_counts(hit, missed).max(-1)),
        ):
            result[name] = pixels.bootstrap(statistic, seed=seed) if pixels else None
        return {**result, **self._at_threshold(slices, seed)}

    def _at_threshold(self, slices: Sequence[TestedSlice], seed: int) -> Result:
        """Dice, lesions found and false positives with the threshold fitted on held-out normal slices."""
        result: Result = dict.fromkeys(("dice", "dice_per_image", "lesion_recall", "false_positive_rate", "lesions"))
        shown = [one for one in slices if one.outlined]
        result["lesions"] = sum(len(one.found) for one in shown)
        if self.threshold is None:
            return result
        told = np.array([(one.hits, one.marked, one.area) for one in shown], np.float64).reshape(-1, 3)
        cases = np.array([one.case for one in shown])
        ill = [one for one in shown if one.area]
        if ill:
            owners = np.array([one.case for one in ill])
            redrawn = redraw(cases, lambda rows: _dice(*told[rows].sum(0)), seed=seed)
            result["dice"] = fraction_interval(_dice(*told.sum(0)), redrawn, len(np.unique(owners)))
            result["dice_per_image"] = mean_interval(
                np.array([one.dice for one in ill]), owners, within=(0, 1), seed=seed
            )
            owners = np.array([one.case for one in ill for _ in one.found])
            found = np.array([hit for one in ill for hit in one.found], np.float64)
            result["lesion_recall"] = share_interval(found, owners)
        well = [one for one in shown if one.kind == self.normal]
        share = np.array([one.marked / one.pixels for one in well])
        if len(share):
            owners = np.array([one.case for one in well])
            result["false_positive_rate"] = mean_interval(share, owners, within=(0, 1), seed=seed)
        return result

    @property
    def threshold_value(self) -> float | None:
        """The lowest score that is marked."""
        return None if self.threshold is None else value_of(self.threshold)


def _ranked(
    statistic: Callable[[Bools, Values], float], ill: Bools, scores: Values, cases: Rows, seed: int
) -> Interval | None:
    """How well scores (N,) tell ill slices from normal ones, with intervals over cases (N,)."""
    redrawn = redraw(cases, lambda rows: statistic(ill[rows], scores[rows]), seed=seed)
    fewer = min(len(np.unique(cases[ill])), len(np.unique(cases[~ill])))
    return fraction_interval(statistic(ill, scores), redrawn, fewer)


def _dice(hits: float, marked: float, area: float) -> float:
    return 2.0 * hits / (marked + area) if marked + area else float("nan")
