"""Which samples are copies of training images: those nearer to one than any held-out real image is.

Distances are relative to those of the next training cases, so that a common kind of image is not taken for a copy.
A new image like the held-out ones lies below all of them with a probability of at most 1 / (cases + 1), as each is
equally likely to be the nearest (a conformal rank test, Vovk et al. 2005); the margin lowers it further.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from medgen.errors import DataError
from medgen.evaluation.features.features import key_of
from medgen.evaluation.inputs import Inputs, slice_names
from medgen.evaluation.intervals import share_interval
from medgen.evaluation.memorization.closest_pairs import PairSource, gallery
from medgen.evaluation.memorization.declaration import MemorizationOptions
from medgen.evaluation.memorization.nearest_images import FLIPS, Collection, Matches, collect, nearest_images
from medgen.evaluation.section import Distribution, Score, Section, Table, number, percent

LEAK_SPREADS = 5.0
"""A held-out image so many standard deviations below the median is a training image that leaked, not a new one."""
LEAK_CHANCE = 0.01
"""Chance that any of the held-out images counts as leaked, where their distances are normally distributed."""
LEAK_LEAST = 0.1
"""And so is one below this relative distance, however the others spread."""
SURROUNDINGS = 0.05
"""Quantile of the held-out surroundings that any surroundings count as at least: samples may all be one image."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CopyRule:
    """What counts as a copy, learned from held-out images."""

    threshold: float
    """Relative distance below which an image is a copy."""
    smallest: float
    """The smallest relative distance of a held-out image that did not leak."""
    least: float
    """Lower bound of the surroundings."""
    leaked: npt.NDArray[np.bool_]
    """(H,) held-out images that are copies themselves, and were not used for the rule."""


@dataclass(frozen=True)
class CopyFindings:
    """What was compared, and what lay nearest."""

    ours: Collection
    known: Collection
    held_out: Collection
    in_training: int
    """Reference images that were left out because they belong to training cases."""
    found: Matches
    """Matches of the samples among the training images."""
    baseline: Matches
    """Matches of held-out images among the training images."""
    alike: Matches | None
    """Matches of the samples among themselves."""
    apart: Matches | None
    """Matches of as many training images among themselves."""


def measure(inputs: Inputs, options: MemorizationOptions) -> Section:
    """Compare each sample, and each held-out image, with the training images, and samples with each other."""
    extractor = inputs.bank.extractor
    findings = _compare(inputs, options)
    ours, found, baseline = findings.ours, findings.found, findings.baseline
    rule = learn_rule(baseline, options)
    relative, theirs = found.relative(rule.least), baseline.relative(rule.least)
    result = {
        "rule": _rule(rule, findings.held_out, options),
        "copies": _share(relative < rule.threshold, ours),
        "nearer_in_features": _share(found.feature_distance < baseline.feature_distance[~rule.leaked].min(), ours),
        "duplicates": None,
        "relative_distance": _quantiles(relative),
        "held_out_relative_distance": _quantiles(theirs),
        "feature_distance": _quantiles(found.feature_distance),
        "held_out_feature_distance": _quantiles(baseline.feature_distance),
        "samples": len(ours),
        "training": _counts(findings.known),
        "held_out": {**_counts(findings.held_out), "in_training": findings.in_training},
        "leaked": _leaks(rule, findings),
        "left_out": ours.features.skipped,
        "extractor": {"name": extractor.name, "digest": extractor.digest},
    }
    source = PairSource("closest to training images", "training", ours, findings.known, found)
    result["pairs"], drawn = gallery(source, rule.least, rule.threshold, options)
    galleries = [drawn]
    if findings.alike is not None and findings.apart is not None:
        real = learn_rule(findings.apart, options)
        result["duplicates"] = {
            **_share(findings.alike.relative(real.least) < real.threshold, ours),
            "threshold": real.threshold,
            "real_images": len(real.leaked),
            "real_duplicates": int(real.leaked.sum()),
        }
        source = PairSource("closest to each other", "other sample", ours, ours, findings.alike)
        result["duplicate_pairs"], drawn = gallery(source, real.least, real.threshold, options)
        galleries.append(drawn)
    distributions = [
        Distribution(
            "Relative distance to the nearest training image",
            "relative distance",
            {"samples": relative, "held out": theirs},
            {"copy below": rule.threshold},
        ),
        Distribution(
            "Distance to the nearest training image in features",
            f"distance, {extractor.name}",
            {"samples": found.feature_distance, "held out": baseline.feature_distance},
        ),
    ]
    names = slice_names(ours.stored)
    values = {names[row]: float(value) for row, value in zip(ours.features.slices, relative, strict=True)}
    scores = {"relative_distance": Score("relative distance to the nearest training image", "higher", values)}
    tables, warnings = [_table(result)], list(_warnings(result))
    return Section("memorization", "Memorization", result, tables, warnings, distributions, galleries, scores)


def _compare(inputs: Inputs, options: MemorizationOptions) -> CopyFindings:
    """Run all searches; those that do not depend on the samples run once for all sets."""
    stored, training, reference, bank = inputs.stored, inputs.training, inputs.reference, inputs.bank
    if training is None or reference is None:
        raise ValueError("memorization needs a training set and held-out images")
    with inputs.progress(stored.slices + training.slices + reference.slices, "slices described") as advance:
        ours, known, held_out = (collect(one, bank, advance) for one in (stored, training, reference))
    held_out, in_training = _without(held_out, {row.id for row in training.cases})
    several = min(_cases(ours), _cases(known)) > 1
    some = _as_many(known, ours, np.random.default_rng(inputs.seed))
    steps = len(ours) + len(held_out) + several * (len(ours) + len(some))
    with inputs.progress(steps, "images compared") as advance:
        return CopyFindings(
            *(ours, known, held_out, in_training),
            found=nearest_images(ours, known, options, advance),
            baseline=bank.once(
                ("held out", key_of(training), key_of(reference), options),
                lambda: nearest_images(held_out, known, options, advance),
            ),
            alike=nearest_images(ours, ours, options, advance, same=True) if several else None,
            apart=nearest_images(some, some, options, advance, same=True) if several else None,
        )


def learn_rule(held_out: Matches, options: MemorizationOptions) -> CopyRule:
    """Learn the rule from how near held-out images come to the training images."""
    around = held_out.surroundings[np.isfinite(held_out.surroundings)]
    least = float(np.quantile(around, SURROUNDINGS)) if len(around) else 1.0  # one training case: as it is
    relative = held_out.relative(least)
    leaked = relative < max(_lowest_new(relative), LEAK_LEAST)
    if leaked.all():
        raise DataError("all real images are copies of each other; give a --reference that was held out of training")
    smallest = float(relative[~leaked].min())
    return CopyRule(options.margin * smallest, smallest, least, leaked)


def _lowest_new(relative: Values) -> float:
    """The distance below which no image is that is new as most of these (H,) are.

    Leaks lie below the median, so the spread is measured above it. It is not known well of few images, and the nearest
    of many lies farther from the median: Student's t and Bonferroni's correction allow for both.
    """
    middle = float(np.median(relative))
    above = relative[relative > middle] - middle
    if not len(above):
        return 0.0
    surely = float(stats.t.ppf(1 - LEAK_CHANCE / len(relative), max(len(above) - 1, 1)))
    return middle - max(LEAK_SPREADS, surely) * float(np.sqrt(np.mean(above**2)))


def _without(collection: Collection, ids: set[str]) -> tuple[Collection, int]:
    """The images whose case is not among the ids, and the number of those removed; DataError if none are left."""
    kept = np.array([collection.stored.cases[case].id not in ids for case in collection.features.cases])
    if not kept.any():
        raise DataError(
            "the reference holds training cases only; held-out ones are needed, such as --reference-split test"
        )
    return collection[np.flatnonzero(kept)], int((~kept).sum())


def _as_many(known: Collection, ours: Collection, random: np.random.Generator) -> Collection:
    """As many training cases as ours, with as many images each, as far as there are enough."""
    cases = random.permutation(np.unique(known.features.cases))[: _cases(ours)]
    each = max(1, round(len(ours) / _cases(ours)))
    members = [np.flatnonzero(known.features.cases == case) for case in np.sort(cases)]
    return known[np.concatenate([np.sort(random.permutation(rows)[:each]) for rows in members])]


def _cases(collection: Collection) -> int:
    return len(np.unique(collection.features.cases))


def _counts(collection: Collection) -> dict[str, int]:
    return {"images": len(collection), "cases": _cases(collection)}


def _share(found: npt.NDArray[np.bool_], ours: Collection) -> dict[str, Any]:
    return {"count": int(found.sum()), **(share_interval(found, ours.features.cases) or {})}


def _rule(rule: CopyRule, held_out: Collection, options: MemorizationOptions) -> dict[str, Any]:
    cases = _cases(held_out[np.flatnonzero(~rule.leaked)])
    return {
        "threshold": rule.threshold,
        "smallest_held_out": rule.smallest,
        "margin": options.margin,
        "false_alarm_bound": 1 / (cases + 1),
        "compared_side": options.side,
        "shift": options.shift,
        "flips": list(FLIPS),
    }


def _leaks(rule: CopyRule, findings: CopyFindings) -> list[dict[str, str]]:
    """Which held-out image is a copy of which training image."""
    held_out, known = findings.held_out, findings.known
    theirs, names = slice_names(held_out.stored), slice_names(known.stored)
    return [
        {
            "held_out": theirs[held_out.features.slices[row]],
            "training": names[known.features.slices[findings.baseline.row[row]]],
        }
        for row in np.flatnonzero(rule.leaked)
    ]


def _quantiles(values: Values) -> dict[str, float]:
    low, some, middle = np.quantile(values, [0.0, 0.05, 0.5])
    return {"smallest": float(low), "5_percent": float(some), "median": float(middle)}


def _table(result: dict[str, Any]) -> Table:
    rule, held_out = result["rule"], result["held_out"]
    rows = [
        ["images", str(result["samples"]), f"{held_out['images']} of {held_out['cases']} cases"],
        ["copies of training images", percent(result["copies"]), "none, by the rule"],
    ]
    for key, title in (("relative_distance", "relative distance"), ("feature_distance", "distance in features")):
        ours, theirs = result[key], result[f"held_out_{key}"]
        for name, words in (("smallest", "smallest"), ("5_percent", "5 % below"), ("median", "median")):
            rows.append([f"{title}, {words}", number(ours[name], 3), number(theirs[name], 3)])
    rows.append(["closer in features than all held-out images", percent(result["nearer_in_features"]), "none"])
    duplicates = result["duplicates"]
    of_real = f"{duplicates['real_duplicates']} of {duplicates['real_images']} training images" if duplicates else "-"
    rows.append(["duplicates of other samples", percent(duplicates), of_real])
    note = (
        f"A copy has a relative distance below {rule['threshold']:.3g}, {rule['margin']:g} of the smallest that "
        f"held-out images have; a new image is called one with a chance below {100 * rule['false_alarm_bound']:.2g} %."
    )
    return Table("memorization", ("", "samples", "held-out real images"), rows, note)


def _warnings(result: dict[str, Any]) -> Iterator[str]:
    if result["leaked"]:
        pairs = result["leaked"]
        yield (
            f"{len(pairs)} held-out images are copies of training images, such as {pairs[0]['held_out']} of "
            f"{pairs[0]['training']}; the rule leaves them out, but the split is not clean"
        )
    if result["duplicates"] and result["duplicates"]["real_duplicates"]:
        count, of = (result["duplicates"][f"real_{what}"] for what in ("duplicates", "images"))
        yield f"{count} of {of} training images examined are duplicates of each other"
    if result["held_out"]["in_training"]:
        yield f"{result['held_out']['in_training']} reference images belong to training cases; they were left out"
    bound = result["rule"]["false_alarm_bound"]
    if bound > 0.05:
        yield (
            f"{round(1 / bound) - 1} held-out cases bound false alarms only at {100 * bound:.0f} %; "
            "hold out more, or look at the pairs"
        )
    if result["left_out"]:
        yield f"{result['left_out']} samples hold NaN or infinity; they were left out"
