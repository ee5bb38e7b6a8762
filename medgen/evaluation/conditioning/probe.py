"""How malignant or textured a nodule looks, which no rule can measure, by a probe trained on rated real images.

Ridge regression on fixed features of the patch around the nodule. The probe's own quality is reported beside every
result: its agreement with the ratings of real cases that it was not fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.evaluation.conditioning.patches import NodulePatches
from medgen.evaluation.intervals import correlation_interval, redraw

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

PENALTIES = tuple(10.0**power for power in range(-1, 6))
FOLDS = 5
LEAST_CASES = 10
"""Rated real cases below which no probe is fitted."""


@dataclass(frozen=True)
class Probe:
    """A linear map from standardised features to one rating."""

    mean: Values
    spread: Values
    weights: Values
    offset: float
    penalty: float

    def __call__(self, features: Values) -> Values:
        """Ratings (N,) of features (N, F)."""
        rating: Values = (features - self.mean) / self.spread @ self.weights + self.offset
        return rating


def fit(features: Values, ratings: Values, cases: Rows) -> Probe:
    """Ridge regression of ratings (N,), with the penalty that best predicts left-out cases."""
    errors = dict.fromkeys(PENALTIES, 0.0)
    for inside in folds(cases, seed=0):
        path = ridge(features[~inside], ratings[~inside])
        for penalty in PENALTIES:
            errors[penalty] += float(((path(penalty)(features[inside]) - ratings[inside]) ** 2).sum())
    return ridge(features, ratings)(min(PENALTIES, key=lambda penalty: errors[penalty]))


def ridge(features: Values, ratings: Values) -> Callable[[float], Probe]:
    """A function from penalty to probe, all from one decomposition (Hoerl & Kennard 1970)."""
    mean, spread = features.mean(0), features.std(0) + 1e-9
    offset = float(ratings.mean())
    standard = (features - mean) / spread
    eigenvalues, vectors = np.linalg.eigh(standard.T @ standard)
    target = vectors.T @ (standard.T @ (ratings - offset))
    return lambda penalty: Probe(mean, spread, vectors @ (target / (eigenvalues + penalty)), offset, penalty)


def folds(cases: Rows, seed: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Which rows (N,) are left out, a fifth of the cases at a time."""
    order = np.random.default_rng(seed).permutation(np.unique(cases))
    for fold in range(FOLDS):
        yield np.isin(cases, order[fold::FOLDS])


def evaluate_ratings(
    samples: NodulePatches, real: NodulePatches, names: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """For each rating: requested against measured on the samples, and rated against measured on held-out real cases.

    A rating that does not vary among the real nodules, or has too few cases, is None.
    """
    results: dict[str, Any] = {}
    for column, name in enumerate(names):
        truth = real.ratings[:, column]
        results[name] = None
        if len(np.unique(real.cases)) < LEAST_CASES or np.ptp(truth) == 0:
            continue
        probe = fit(real.features, truth, real.cases)
        real_agreement = agreement(held_out(real, column, seed), truth, real.cases, seed)
        rank = real_agreement["spearman"]
        results[name] = {
            "probe_works": rank is not None and rank["low"] > 0,
            "samples": agreement(probe(samples.features), samples.ratings[:, column], samples.cases, seed),
            "held_out_real": real_agreement,
            "real_nodules": len(truth),
            "penalty": probe.penalty,
        }
    return results


def held_out(real: NodulePatches, column: int, seed: int = 0) -> Values:
    """Each slice's rating (N,) by a probe fitted without the fifth of the cases that holds its own."""
    measured = np.empty(len(real.cases))
    for inside in folds(real.cases, seed):
        rest = real[np.flatnonzero(~inside)]
        measured[inside] = fit(rest.features, rest.ratings[:, column], rest.cases)(real.features[inside])
    return measured


def agreement(measured: Values, asked: Values, cases: Rows, seed: int = 0) -> dict[str, Any]:
    """Pearson's and Spearman's correlation with intervals over cases (None: too few, or all alike), and mean error."""
    from scipy.stats import rankdata

    def of(transform: Callable[[Values], Values]) -> dict[str, float] | None:
        def correlation(rows: Rows) -> float:
            a, b = transform(measured[rows]), transform(asked[rows])
            return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")

        value = correlation(np.arange(len(asked))) if len(asked) > 2 else float("nan")
        redrawn = redraw(cases, correlation, seed=seed, draws=400) if np.isfinite(value) else np.empty(0)
        return correlation_interval(value, redrawn, len(np.unique(cases)))

    return {
        "slices": len(asked),
        "pearson": of(lambda values: values),
        "spearman": of(rankdata),
        "mean_absolute_error": float(np.abs(measured - asked).mean()) if len(asked) else None,
    }
