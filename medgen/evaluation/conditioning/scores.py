"""The rule's results for samples, for known nodules, and for samples under shuffled conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.evaluation.conditioning.rule import (
    LEAST_TOLERANCE,
    SHUFFLES,
    Measured,
    NoduleRule,
    Rows,
    Vectors,
    anywhere,
    calibrate,
)
from medgen.evaluation.intervals import halves, share_interval
from medgen.evaluation.statistics import correlation, mean_of_results, median

LIKE = 1.25
"""Factor within which a known nodule is as large as one that was asked for."""
RATES = ("hit_rate", "hit_rate_with_size")


def evaluate(samples: Measured, reference: Measured | None, *, seed: int = 0) -> tuple[dict[str, Any], NoduleRule]:
    """Results of the samples, of shuffled conditions and, with a reference, of known nodules; and the rule.

    The rule is fitted to one half of the reference's cases; the ceiling is measured on the other. Rates depend on the
    size of nodules, so the samples' rates are compared with those of known nodules of the requested sizes.
    """
    random = np.random.default_rng(seed)
    rule, ceiling, like, fitted = NoduleRule(), None, None, "built in"
    if reference is not None and (reference.asked[:, 0] > 0).any():
        fit, report = halves(reference.cases, random)
        if len(fit) and len(report):
            rule, fitted = calibrate(reference[fit], random), "one half of the reference"
            ceiling = score(reference[report], rule)
            like = rates_of_like(reference[report], samples, rule)
    result = {
        "rule": {
            "power": rule.power,
            "threshold_anywhere": rule.anywhere,
            "threshold_near": rule.near,
            "size_at_zero": rule.shortest,
            "size_slope": rule.stretch,
            "fitted_to": fitted,
            "tolerance": f"half the asked size, at least {LEAST_TOLERANCE} of the width",
        },
        "samples": score(samples, rule),
        "ceiling_of_like_size": like,
        "ceiling": ceiling,
        "chance": mean_of_results([score(samples.shuffled(random), rule) for _ in range(SHUFFLES)]),
    }
    return result, rule


def score(measured: Measured, rule: NoduleRule) -> dict[str, Any]:
    """Hits, errors, correlations and confusion of `measured` under `rule`.

    A hit is a spot at the requested place; its size is compared with the requested size. Errors and correlations of
    place are those of the strongest spot of each slice with a nodule, wherever it lies.
    """
    sick = measured.asked[:, 0] > 0
    present = anywhere(measured, rule) >= rule.anywhere
    positive = measured.with_nodule
    hit, fits, sizes = sizes_found(positive, rule)
    first = [(row, rule.strongest(spots)) for row, spots in enumerate(positive.spots)]
    found = np.array([(spot.x, spot.y) for _, spot in first if spot], np.float64).reshape(-1, 2)
    rows = np.array([row for row, spot in first if spot], np.int64)
    asked, widths = positive.asked[rows], positive.widths[rows]
    distances = np.hypot(found[:, 0] - asked[:, 1], found[:, 1] - asked[:, 2])
    return {
        "with_nodule": len(hit),
        "cases_with_nodule": len(np.unique(positive.cases)),
        "healthy": int((~sick).sum()),
        "hit_rate": share_interval(hit, positive.cases),
        "hit_rate_with_size": share_interval(fits, positive.cases),
        "position_error_percent": median(100 * distances),
        "position_error_mm": median((distances * widths)[np.isfinite(widths)]),
        "size_error_percent": median(100 * np.abs(sizes - positive.asked[:, 3])[hit]),
        "correlation": {
            "x": correlation(asked[:, 1], found[:, 0]),
            "y": correlation(asked[:, 2], found[:, 1]),
            "size": correlation(positive.asked[hit, 3], sizes[hit]),
        },
        "confusion": {
            "true_positive": int((present & sick).sum()),
            "false_negative": int((~present & sick).sum()),
            "false_positive": int((present & ~sick).sum()),
            "true_negative": int((~present & ~sick).sum()),
        },
    }


def sizes_found(positive: Measured, rule: NoduleRule) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], Vectors]:
    """Of slices with a nodule: whether it is found, within a factor 2 of its size, and its size (0 where it is not)."""
    spots, asked = rule.found(positive), positive.asked[:, 3]
    hit = np.array([spot is not None for spot in spots], bool)
    sizes = np.array([0.0 if spot is None else rule.size(spot) for spot in spots], np.float64)
    return hit, hit & (sizes >= asked / 2) & (sizes <= asked * 2), sizes


def rates_of_like(known: Measured, samples: Measured, rule: NoduleRule) -> dict[str, Any] | None:
    """How often known nodules of the requested sizes are found; None if there are none.

    Each requested nodule counts once, shared equally by the cases with nodules like it.
    """
    positive, asked = known.with_nodule, samples.with_nodule
    weights, matched = weights_of_like(positive.asked[:, 3], positive.cases, asked.asked[:, 3])
    rows = np.flatnonzero(weights)
    if not len(rows):
        return None
    hit, fits, _ = sizes_found(positive[rows], rule)
    cases = positive.cases[rows]
    return {
        "with_nodule": len(rows),
        "cases_with_nodule": len(np.unique(cases)),
        "asked_without_like": int((~matched).sum()),
        "hit_rate": share_interval(hit, cases, weights[rows]),
        "hit_rate_with_size": share_interval(fits, cases, weights[rows]),
    }


def weights_of_like(sizes: Vectors, cases: Rows, asked: Vectors) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """Weights of known nodules (K,) of these sizes and cases for the requested sizes (A,); which of these have any.

    The weight of a requested size is shared by the cases with a nodule like it, and by the slices of each.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.abs(np.log(asked)[:, None] - np.log(sizes)) <= np.log(LIKE) + 1e-9  # (A, K)
    names, place = np.unique(cases, return_inverse=True)
    members = np.zeros((len(cases), len(names)))
    members[np.arange(len(cases)), place] = 1.0
    slices = near @ members  # (A, cases)
    sharing = (slices > 0).sum(axis=1)
    parts = near / np.maximum(slices[:, place] * sharing[:, None], 1.0)
    return np.asarray(parts.sum(axis=0)), np.asarray(sharing > 0)
