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
from scipy import stats

from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.metrics.fidelity import halves
from medgen.metrics.nodules import Spot, find_spots

Vectors = npt.NDArray[np.float64]
FIELDS = ("has_nodule", "x", "y", "size")
LEAST_TOLERANCE = 0.05
"""A spot hits when its centre lies within the asked radius of the asked place, or within this share of the width."""
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
SHUFFLES = 20


@dataclass(frozen=True)
class Rule:
    """How strong a spot is, contrast * size^power, and from which strength on it counts as a nodule.

    The defaults were fitted to phantoms of 64 x 64 pixels with nodules of 24 to 56 mm.
    """

    power: float = 1.0
    threshold: float = 26.0

    def strength(self, spot: Spot) -> float:
        """In HU * width^power."""
        return float(spot.contrast * spot.size**self.power)

    def ranked(self, spots: Sequence[Spot]) -> list[Spot]:
        """By falling strength."""
        return sorted(spots, key=self.strength, reverse=True)

    def nodules(self, spots: Sequence[Spot]) -> list[Spot]:
        """Those that count as nodules, strongest first."""
        return [spot for spot in self.ranked(spots) if self.strength(spot) >= self.threshold]


@dataclass(frozen=True)
class Measured:
    """The spots of each slice, what was asked of it (N, 4), its case, and its width in mm (NaN if unknown)."""

    spots: list[list[Spot]]
    asked: Vectors
    cases: npt.NDArray[np.int64]
    widths: Vectors

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Measured:
        return Measured([self.spots[row] for row in rows], self.asked[rows], self.cases[rows], self.widths[rows])


def measure(stored: StoredSet, advance: Callable[[int], object] = lambda n: None) -> Measured:
    """Find the spots of every slice of an image set in HU whose vectors name has_nodule, x, y and size."""
    intensity = stored.header.intensity
    fields = stored.header.vector_fields
    missing = [name for name in FIELDS if name not in fields]
    if missing or not stored.has("vector"):
        raise DataError(f"conditioning needs vectors with {', '.join(FIELDS)}; the set lacks {', '.join(missing)}")
    if stored.header.kind != "image" or intensity is None or intensity.unit != "HU":
        raise DataError("conditioning measures nodules in CT images in HU; the set holds none")
    asked = stored.column("vector").astype(np.float64)[:, [fields.index(name) for name in FIELDS]]
    spots, cases, widths = [], [], []
    for number, row in enumerate(stored.cases):
        known = row.spacing[2] != 1.0  # 1 mm stands for "unknown"
        for index in range(row.start, row.start + row.count):
            image = intensity.physical(stored.read("image", [index])[0, 0])
            finite = np.nan_to_num(image, nan=-1000.0, posinf=-1000.0, neginf=-1000.0)
            spots.append(find_spots(finite))
            cases.append(number)
            widths.append(row.spacing[2] * image.shape[1] if known else np.nan)
            advance(1)
    return Measured(spots, asked, np.array(cases), np.array(widths))


def calibrate(known: Measured) -> Rule:
    """The rule whose strongest spots most often are the known nodules, with the threshold that best parts them from
    healthy slices (Youden 1950); the default where `known` shows no nodule."""
    sick = known.asked[:, 0] > 0
    if not sick.any():
        return Rule()
    found = [_inside(strongest(known.spots, Rule(power))[sick], known.asked[sick]).mean() for power in POWERS]
    rule = Rule(POWERS[int(np.argmax(found))])
    strengths = np.array([max(map(rule.strength, spots), default=0.0) for spots in known.spots])
    if sick.all():
        return Rule(rule.power, float(np.quantile(strengths, 0.1)))
    candidates = np.unique(strengths)
    gain = [(strengths[sick] >= cut).mean() - (strengths[~sick] >= cut).mean() for cut in candidates]
    return Rule(rule.power, float(candidates[int(np.argmax(gain))]))


def evaluate(samples: Measured, reference: Measured | None, *, seed: int = 0) -> dict[str, Any]:
    """Results of the samples, of shuffled conditions, and, with a reference, of images with known nodules.

    The rule is fitted to one half of the reference's cases; the ceiling is measured on the other.
    """
    random = np.random.default_rng(seed)
    rule, ceiling, fitted = Rule(), None, "built in"
    if reference is not None and (reference.asked[:, 0] > 0).any():
        fit, report = halves(reference.cases, random)
        if len(fit) and len(report):
            rule, fitted = calibrate(reference[fit]), "one half of the reference"
            ceiling = score(reference[report], rule)
    shuffled = []
    for _ in range(SHUFFLES):
        order = random.permutation(len(samples.asked))
        shuffled.append(score(Measured(samples.spots, samples.asked[order], samples.cases, samples.widths), rule))
    return {
        "rule": {
            "power": rule.power,
            "threshold": rule.threshold,
            "fitted_to": fitted,
            "tolerance": f"half the asked size, at least {LEAST_TOLERANCE} of the width",
        },
        "samples": score(samples, rule),
        "ceiling": ceiling,
        "chance": _averaged(shuffled),
    }


def score(measured: Measured, rule: Rule) -> dict[str, Any]:
    """Hits, errors, correlations and confusion of `measured` under `rule`.

    Hits look at every spot that counts as a nodule; errors and correlations at the strongest spot of each slice with a
    nodule, wherever it lies.
    """
    sick = measured.asked[:, 0] > 0
    present = np.array([bool(rule.nodules(spots)) for spots in measured.spots], bool)
    hits, sized = 0, 0
    for row in np.flatnonzero(sick):
        asked = measured.asked[row]
        nodules = as_array(rule.nodules(measured.spots[row]))
        near = nodules[_inside(nodules, np.broadcast_to(asked, (len(nodules), 4)))]
        hits += bool(len(near))
        sized += bool(np.any((near[:, 2] >= asked[3] / 2) & (near[:, 2] <= asked[3] * 2)))
    found, asked = strongest(measured.spots, rule)[sick], measured.asked[sick]
    some = np.isfinite(found[:, 0])
    found, asked, widths = found[some], asked[some], measured.widths[sick][some]
    distances = _distances(found, asked)
    return {
        "with_nodule": int(sick.sum()),
        "healthy": int((~sick).sum()),
        "hit_rate": wilson(hits, int(sick.sum())),
        "hit_rate_with_size": wilson(sized, int(sick.sum())),
        "position_error_percent": _median(100 * distances),
        "position_error_mm": _median((distances * widths)[np.isfinite(widths)]),
        "size_error_percent": _median(100 * np.abs(found[:, 2] - asked[:, 3])),
        "correlation": {name: correlation(asked[:, i + 1], found[:, i]) for i, name in enumerate(FIELDS[1:])},
        "confusion": {
            "true_positive": int((present & sick).sum()),
            "false_negative": int((~present & sick).sum()),
            "false_positive": int((present & ~sick).sum()),
            "true_negative": int((~present & ~sick).sum()),
        },
    }


def strongest(spots: Sequence[Sequence[Spot]], rule: Rule) -> Vectors:
    """x, y and size of the strongest spot of each slice, (N, 3); NaN where there is none."""
    rows = [as_array(rule.ranked(some)[:1]) if some else np.full((1, 3), np.nan) for some in spots]
    return np.concatenate(rows) if rows else np.empty((0, 3))


def as_array(spots: Sequence[Spot]) -> Vectors:
    """x, y and size of spots, (N, 3)."""
    return np.array([(spot.x, spot.y, spot.size) for spot in spots], np.float64).reshape(-1, 3)


def wilson(successes: int, trials: int) -> dict[str, float] | None:
    """A rate with its 95 % interval (Wilson 1927); None for no trials."""
    if trials == 0:
        return None
    z = 1.959963984540054
    rate = successes / trials
    centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    spread = z / (1 + z**2 / trials) * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return {"value": rate, "low": float(max(centre - spread, 0.0)), "high": float(min(centre + spread, 1.0))}


def correlation(asked: Vectors, found: Vectors) -> dict[str, float] | None:
    """Pearson's and Spearman's coefficient; None where one side does not vary."""
    if len(asked) < 3 or np.ptp(asked) == 0 or np.ptp(found) == 0:
        return None
    return {
        "pearson": float(stats.pearsonr(asked, found).statistic),
        "spearman": float(stats.spearmanr(asked, found).statistic),
    }


def _distances(found: Vectors, asked: Vectors) -> Vectors:
    distances: Vectors = np.hypot(found[:, 0] - asked[:, 1], found[:, 1] - asked[:, 2])
    return distances


def _inside(found: Vectors, asked: Vectors) -> npt.NDArray[np.bool_]:
    """Whether each found spot (N, 3) hits the nodule asked for (N, 4); a spot of NaN hits nothing."""
    inside: npt.NDArray[np.bool_] = _distances(found, asked) <= np.maximum(asked[:, 3] / 2, LEAST_TOLERANCE)
    return inside


def _median(values: Vectors) -> float | None:
    return float(np.median(values)) if len(values) else None


def _averaged(results: Sequence[Any]) -> Any:
    """The mean of equal structures of numbers; None where all are None."""
    known = [result for result in results if result is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        return {name: _averaged([result[name] for result in known]) for name in known[0]}
    return float(np.mean(known))
