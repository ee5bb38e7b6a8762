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


def around(value: float, redrawn: Values) -> dict[str, float | None]:
    """The value +- 1.96 standard deviations of its redrawn ones (B,), for statistics that repeated rows bias.

    Percentiles of such statistics need not even hold the value: a Frechet distance grows with every repeated row.
    """
    if len(redrawn) < 2:
        return {"value": value, "low": None, "high": None}
    spread = 1.959963984540054 * float(np.std(redrawn, ddof=1))
    return {"value": value, "low": value - spread, "high": value + spread}


def multiplicities(cases: Rows, seed: int, draws: int) -> Values:
    """How often each row (N,) is in each of `resamples`, (draws, N); empty for fewer than 2 cases."""
    if len(np.unique(cases)) < 2:
        return np.empty((0, len(cases)))
    return np.stack([np.bincount(rows, minlength=len(cases)) for rows in resamples(cases, seed, draws)]).astype(float)


def halves(cases: Rows, random: np.random.Generator) -> tuple[Rows, Rows]:
    """Rows in two parts of about equal size that share no case: slices of one patient resemble each other."""
    order = random.permutation(np.unique(cases))
    counts = np.array([(cases == case).sum() for case in order])
    first = order[: int(np.searchsorted(np.cumsum(counts), len(cases) / 2) + 1)]
    if len(first) == len(order):
        first = order[:-1]
    inside = np.isin(cases, first)
    return np.flatnonzero(inside), np.flatnonzero(~inside)
