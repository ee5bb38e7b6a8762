"""Intervals by the bootstrap over cases (Efron 1979): slices of one case resemble each other and are drawn together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

DRAWS = 1000


def bootstrap(
    cases: Rows, statistic: Callable[[Rows], float], *, seed: int = 0, draws: int = DRAWS
) -> dict[str, float] | None:
    """`statistic` of all rows (N,), with the 95 % percentile interval of redrawn cases; None for fewer than 2 cases.

    `cases` (N,) names the case of each row; draws for which the statistic is not finite are left out.
    """
    if len(np.unique(cases)) < 2:
        return None
    value = statistic(np.arange(len(cases)))
    redrawn = np.array([statistic(rows) for rows in resamples(cases, seed, draws)], np.float64)
    return _summary(value, redrawn)


def bootstrap_mean(values: Values, cases: Rows, *, seed: int = 0, draws: int = DRAWS) -> dict[str, float] | None:
    """The mean of values (N,) with its interval; the same as `bootstrap` of the mean, but fast."""
    names, place = np.unique(cases, return_inverse=True)
    if len(names) < 2:
        return None
    sums, counts = np.bincount(place, values), np.bincount(place)
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    return _summary(float(values.mean()), sums[drawn].sum(1) / counts[drawn].sum(1))


def resamples(cases: Rows, seed: int, draws: int) -> Iterator[Rows]:
    """Rows of as many cases as there are, drawn with replacement, `draws` times over."""
    names, place = np.unique(cases, return_inverse=True)
    order = np.argsort(place, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(place))[:-1])
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    for row in drawn:
        yield np.concatenate([members[case] for case in row])


def _summary(value: float, redrawn: Values) -> dict[str, float] | None:
    redrawn = redrawn[np.isfinite(redrawn)]
    if not np.isfinite(value) or not len(redrawn):
        return None
    low, high = np.quantile(redrawn, [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high)}
