"""Do samples show what they were asked to show: a nodule at (x, y), of that size, or none.

The rule that measures (see `nodules`) errs too. So every result stands between two others: `ceiling`, the same
measurement on reference images whose nodules are known, and `chance`, the measurement against shuffled conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import GENERATED, SPACING_NOTE
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.conditioning.nodules import Spot, find_spots
from medgen.evaluation.conditioning.probe import LEAST_CASES, evaluate_ratings, rate
from medgen.evaluation.inputs import Inputs, slice_names
from medgen.evaluation.intervals import halves, share_interval
from medgen.evaluation.rates import correlation, mean_of_results, median
from medgen.evaluation.section import Score, Section, Table, interval, number, percent

Vectors = npt.NDArray[np.float64]
FIELDS = ("has_nodule", "x", "y", "size")
LEAST_TOLERANCE = 0.05
"""A spot hits when its centre lies within the asked radius of the asked place, or within this share of the width."""
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
SHUFFLES = 20


@dataclass(frozen=True)
class Rule:
    """How strong a spot is, contrast * size^power, and from which strength on it counts as a nodule.

    A spot at the very place asked for needs less strength to be believed (`near`) than one anywhere (`anywhere`).
    The defaults were fitted to phantoms of 64 x 64 pixels with nodules of 24 to 56 mm.
    """

    power: float = 1.0
    anywhere: float = 21.0
    near: float = 11.0

    def strength(self, spot: Spot | None) -> float:
        """In HU * width^power; 0 for no spot."""
        return 0.0 if spot is None else float(spot.contrast * spot.size**self.power)

    def strongest(self, spots: Sequence[Spot]) -> Spot | None:
        """The strongest spot, if there is any; without a place to expect one, medial spots are not trusted."""
        return max((spot for spot in spots if not spot.medial), key=self.strength, default=None)

    def at(self, spots: Sequence[Spot], asked: Vectors) -> Spot | None:
        """The strongest of the spots that hit the nodule asked for, (4,)."""
        return max((spot for spot in spots if hits(spot, asked)), key=self.strength, default=None)


def hits(spot: Spot | None, asked: Vectors) -> bool:
    """Whether a spot lies where the nodule (has_nodule, x, y, size) was asked for."""
    if spot is None:
        return False
    return bool(np.hypot(spot.x - asked[1], spot.y - asked[2]) <= max(asked[3] / 2, LEAST_TOLERANCE))


@dataclass(frozen=True)
class Measured:
    """The spots of each slice, what was asked of it (N, 4), its case, and its width in mm (NaN if unknown)."""

    spots: list[list[Spot]]
    asked: Vectors
    cases: npt.NDArray[np.int64]
    widths: Vectors

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Measured:
        return Measured([self.spots[row] for row in rows], self.asked[rows], self.cases[rows], self.widths[rows])

    def shuffled(self, random: np.random.Generator) -> Measured:
        """The same images with each other's conditions."""
        return Measured(self.spots, random.permutation(self.asked), self.cases, self.widths)


def lacking(inputs: Inputs) -> str:
    """What is missing, with the remedy; "" for nothing."""
    header = inputs.stored.header
    if not set(FIELDS) <= set(header.vector_fields):
        return f"needs a set whose vectors name {', '.join(FIELDS)}: generate it with --vector or --like"
    if header.intensity is None or header.intensity.unit != "HU":
        return "measures nodules in CT: it needs a set in HU"
    return ""


def measure(inputs: Inputs) -> Section:
    """Measure the samples, the reference's known nodules, and shuffled conditions; ratings by a probe."""
    stored, real = inputs.stored, inputs.reference
    known = real if real is not None and set(FIELDS) <= set(real.header.vector_fields) else None
    with inputs.progress(stored.slices + (known.slices if known else 0), "slices") as advance:
        samples = observe(stored, advance)
        result = evaluate(samples, observe(known, advance) if known else None, seed=inputs.options.seed)
    warnings = []
    if result["ceiling"] is None:
        warnings.append("the measuring rule was not tried on known nodules; give a --reference with vectors")
    tables = [_table(result)]
    result["ratings"] = _ratings(inputs, known)
    if result["ratings"]:
        tables.append(_ratings_table(result["ratings"]))
        warnings += [f"{name}: {fault}" for name, rating in result["ratings"].items() if (fault := _fault(rating))]
    asked = samples.asked[:, 0] > 0
    names = [name for name, sick in zip(slice_names(stored), asked, strict=True) if sick]
    rule = Rule(*(result["rule"][key] for key in ("power", "threshold_anywhere", "threshold_near")))
    found = _there(samples[np.flatnonzero(asked)], rule) >= rule.near
    hit = Score("nodule found where asked", "higher", dict(zip(names, found.astype(float).tolist(), strict=True)))
    return Section("conditioning", "Conditioning", result, tables, warnings, scores={"hit_rate": hit})


def _ratings(inputs: Inputs, known: StoredSet | None) -> dict[str, Any]:
    """Agreement of what was asked beyond place and size, such as malignancy, with what a probe sees."""
    fields = inputs.stored.header.vector_fields
    names = [name for name in fields if name not in FIELDS and known and name in known.header.vector_fields]
    if known is None or not names:
        return {}
    with inputs.progress(inputs.stored.slices + known.slices, "slices") as advance:
        real = rate(known, FIELDS, names, advance)
        samples = rate(inputs.stored, FIELDS, names, advance)
    return evaluate_ratings(samples, real, names, inputs.options.seed)


def _fault(rating: dict[str, Any] | None) -> str:
    """Why a rating could not be measured; "" if it was."""
    if rating is None:
        return f"fewer than {LEAST_CASES} rated real cases, or all rated alike, so no probe was fitted"
    if not rating["probe_works"]:
        return "the probe does not agree with the ratings of real nodules left out, so it says nothing of the samples"
    return ""


def _ratings_table(ratings: dict[str, Any]) -> Table:
    rows = []
    for name, rating in ratings.items():
        if rating is not None:
            cells = [
                interval(rating[part][kind], 2) if part == "held_out_real" or rating["probe_works"] else "unknown"
                for kind in ("pearson", "spearman")
                for part in ("samples", "held_out_real")
            ]
            rows.append([name, *cells])
    return Table(
        "ratings by a probe learned from the reference: correlation with what was asked",
        ("", "samples, Pearson", "real, held out, Pearson", "samples, Spearman", "real, held out, Spearman"),
        rows,
        "The probe's correlation on real nodules it was not fitted to is what the samples can at best be held to.",
    )


def _table(result: dict[str, Any]) -> Table:
    columns = {"samples": "samples", "ceiling": "known nodules", "chance": "shuffled"}
    shown = {name: title for name, title in columns.items() if result[name]}
    rows = [
        ["nodule found where asked", *(percent(result[name]["hit_rate"]) for name in shown)],
        ["... and within a factor 2 of its size", *(percent(result[name]["hit_rate_with_size"]) for name in shown)],
        ["median error of place (% of width)", *(number(result[name]["position_error_percent"], 3) for name in shown)],
        ["median error of place (mm)", *(number(result[name]["position_error_mm"], 3) for name in shown)],
        ["median error of size (% of width)", *(number(result[name]["size_error_percent"], 3) for name in shown)],
    ]
    for field in ("x", "y", "size"):
        values = [result[name]["correlation"][field] for name in shown]
        rows.append([f"correlation of {field}", *(number(value and value["pearson"], 2) for value in values)])
    for title, right, wrong in (
        ("nodule seen where one was asked", "true_positive", "false_negative"),
        ("nodule seen where none was asked", "false_positive", "true_negative"),
    ):
        counts = [result[name]["confusion"] for name in shown]
        rows.append([title, *(f"{count[right]:.0f} of {count[right] + count[wrong]:.0f}" for count in counts)])
    return Table("conditioning", ("", *shown.values()), rows)


def observe(stored: StoredSet, advance: Callable[[int], object] = lambda n: None) -> Measured:
    """Find the spots of every slice of an image set in HU whose vectors name has_nodule, x, y and size."""
    intensity, fields = stored.header.intensity, stored.header.vector_fields
    if stored.header.kind != "image" or intensity is None or intensity.unit != "HU":
        raise DataError("conditioning measures nodules in CT images in HU; the set holds none")
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        raise DataError(f"conditioning needs the vector fields {', '.join(FIELDS)}; the set lacks {', '.join(missing)}")
    asked = stored.column("vector").astype(np.float64)[:, [fields.index(name) for name in FIELDS]]
    spots, cases, widths = [], [], []
    for case, row in enumerate(stored.cases):
        # Samples of training cases with unlike pixels have none of their own, and 1 mm stands for it.
        known = row.synthetic != GENERATED or row.spacing != (1.0, 1.0, 1.0) or SPACING_NOTE in stored.header.notes
        for index in range(row.start, row.start + row.count):
            image = intensity.physical(stored.read("image", [index])[0, 0])
            spots.append(find_spots(np.nan_to_num(image, nan=-1000.0, posinf=-1000.0, neginf=-1000.0)))
            cases.append(case)
            widths.append(row.spacing[2] * image.shape[1] if known else np.nan)
            advance(1)
    return Measured(spots, asked, np.array(cases, np.int64), np.array(widths, np.float64))


def calibrate(known: Measured, random: np.random.Generator) -> Rule:
    """Fit the rule to images with known nodules; the default where `known` shows none.

    The power is that with which the strongest spot most often is the nodule. `anywhere` best parts slices with nodules
    from healthy ones, `near` right places from shuffled ones.
    """
    sick = known.asked[:, 0] > 0
    if not sick.any():
        return Rule()
    positive, healthy = known[np.flatnonzero(sick)], known[np.flatnonzero(~sick)]

    def at_first(power: float) -> int:
        pairs = zip(positive.spots, positive.asked, strict=True)
        return sum(hits(Rule(power).strongest(spots), asked) for spots, asked in pairs)

    rule = Rule(max(POWERS, key=at_first))
    with_nodule, without = _anywhere(positive, rule), _anywhere(healthy, rule)
    anywhere = best_cut(with_nodule, without) if len(without) else float(np.quantile(with_nodule, 0.1))
    shuffled = np.concatenate([_there(positive.shuffled(random), rule) for _ in range(SHUFFLES)])
    return Rule(rule.power, anywhere, best_cut(_there(positive, rule), shuffled))


def best_cut(positive: Vectors, negative: Vectors) -> float:
    """The threshold with the highest sensitivity + specificity (Youden 1950), halfway to the next lower value."""
    candidates = np.unique(positive)
    gain = [(positive >= cut).mean() - (negative >= cut).mean() for cut in candidates]
    cut = float(candidates[int(np.argmax(gain))])
    values = np.concatenate([positive, negative])
    return (cut + float(np.max(values[values < cut], initial=0.0))) / 2


def evaluate(samples: Measured, reference: Measured | None, *, seed: int = 0) -> dict[str, Any]:
    """Results of the samples, of shuffled conditions, and, with a reference, of images with known nodules.

    The rule is fitted to one half of the reference's cases; the ceiling is measured on the other.
    """
    random = np.random.default_rng(seed)
    rule, ceiling, fitted = Rule(), None, "built in"
    if reference is not None and (reference.asked[:, 0] > 0).any():
        fit, report = halves(reference.cases, random)
        if len(fit) and len(report):
            rule, fitted = calibrate(reference[fit], random), "one half of the reference"
            ceiling = score(reference[report], rule)
    return {
        "rule": {
            "power": rule.power,
            "threshold_anywhere": rule.anywhere,
            "threshold_near": rule.near,
            "fitted_to": fitted,
            "tolerance": f"half the asked size, at least {LEAST_TOLERANCE} of the width",
        },
        "samples": score(samples, rule),
        "ceiling": ceiling,
        "chance": mean_of_results([score(samples.shuffled(random), rule) for _ in range(SHUFFLES)]),
    }


def score(measured: Measured, rule: Rule) -> dict[str, Any]:
    """Hits, errors, correlations and confusion of `measured` under `rule`.

    A hit is a spot at the place asked for; its size is compared with the size asked for. Errors and correlations of
    place are those of the strongest spot of each slice with a nodule, wherever it lies.
    """
    sick = measured.asked[:, 0] > 0
    present = _anywhere(measured, rule) >= rule.anywhere
    positive = measured[np.flatnonzero(sick)]
    sizes = []  # of the spot at the asked place, 0 if there is none
    for spots, asked in zip(positive.spots, positive.asked, strict=True):
        there = rule.at(spots, asked)
        sizes.append(there.size if there is not None and rule.strength(there) >= rule.near else 0.0)
    near = np.array(sizes)
    fits = (near >= positive.asked[:, 3] / 2) & (near <= positive.asked[:, 3] * 2)
    hit = near > 0
    first = [(row, rule.strongest(spots)) for row, spots in enumerate(positive.spots)]
    found = np.array([(spot.x, spot.y) for _, spot in first if spot], np.float64).reshape(-1, 2)
    rows = np.array([row for row, spot in first if spot], np.int64)
    asked, widths = positive.asked[rows], positive.widths[rows]
    distances = np.hypot(found[:, 0] - asked[:, 1], found[:, 1] - asked[:, 2])
    return {
        "with_nodule": len(near),
        "healthy": int((~sick).sum()),
        "hit_rate": share_interval(hit, positive.cases),
        "hit_rate_with_size": share_interval(fits, positive.cases),
        "position_error_percent": median(100 * distances),
        "position_error_mm": median((distances * widths)[np.isfinite(widths)]),
        "size_error_percent": median(100 * np.abs(near - positive.asked[:, 3])[hit]),
        "correlation": {
            "x": correlation(asked[:, 1], found[:, 0]),
            "y": correlation(asked[:, 2], found[:, 1]),
            "size": correlation(positive.asked[hit, 3], near[hit]),
        },
        "confusion": {
            "true_positive": int((present & sick).sum()),
            "false_negative": int((~present & sick).sum()),
            "false_positive": int((present & ~sick).sum()),
            "true_negative": int((~present & ~sick).sum()),
        },
    }


def _anywhere(measured: Measured, rule: Rule) -> Vectors:
    """Strength of the strongest spot of each slice, (N,)."""
    return np.array([rule.strength(rule.strongest(spots)) for spots in measured.spots], np.float64)


def _there(measured: Measured, rule: Rule) -> Vectors:
    """Strength of the strongest spot at the asked place of each slice, (N,)."""
    pairs = zip(measured.spots, measured.asked, strict=True)
    return np.array([rule.strength(rule.at(spots, asked)) for spots, asked in pairs], np.float64)
