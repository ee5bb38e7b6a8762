"""95 % intervals. Slices of one case resemble each other, so whole cases are resampled.

The kind of interval depends on the figure; `tests/bench` measures how often each covers the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Interval = dict[str, float]
"""`{value, low, high}`"""

DRAWS = 1000
Z = 1.959963984540054
FEWEST = 5
"""Cases below which redrawn ones say too little of how a mean spreads; then Student's t does."""
ANYTHING = (-np.inf, np.inf)
ALIKE = 1e-12
"""Relative spread that is rounding."""
ALMOST = 1.0 - 1e-9
"""A correlation of 1 has no finite transform."""


def unseen_share(cases: int) -> float:
    """The largest share of a population of which none may be among so many cases (Clopper and Pearson 1934)."""
    return float(1 - 0.025 ** (1 / cases))


def mean_interval(
    values: Values, cases: Rows, *, within: tuple[float, float] = ANYTHING, seed: int = 0, draws: int = DRAWS
) -> Interval | None:
    """The mean of values (N,), by the studentised bootstrap (Efron 1982, 10.10; Hall 1988); None for one case.

    Unlike a percentile interval it is wide enough for few cases, and follows skew; `within` bounds the mean. Where all
    cases are alike, the interval reaches as far towards these bounds as the share of others that may be unseen.
    """
    names, place = np.unique(cases, return_inverse=True)
    count = len(names)
    if count < 2:
        return None
    sums, sizes = (np.asarray(np.bincount(place, one), np.float64) for one in (values, np.ones(len(values))))
    value = float(values.mean())
    error = float(_standard_error(sums, sizes))
    if error <= ALIKE * abs(value):
        shift = [unseen_share(count) * (end - value) if np.isfinite(end) else 0.0 for end in within]
        return {"value": value, "low": value + shift[0], "high": value + shift[1]}
    width = np.full(2, stats.t.ppf(0.975, count - 1))  # of the interval in errors, below and above
    if count >= FEWEST:
        drawn = np.random.default_rng(seed).integers(count, size=(draws, count))
        means = sums[drawn].sum(1) / sizes[drawn].sum(1)
        errors = _standard_error(sums[drawn], sizes[drawn])
        varied = errors > 1e-9 * error
        if varied.mean() > 0.975:
            low, high = np.quantile((means - value)[varied] / errors[varied], [0.025, 0.975])
            width = np.array([high, -low])
    low, high = np.clip([value - width[0] * error, value + width[1] * error], *within)
    return {"value": value, "low": float(low), "high": float(high)}


def _standard_error(sums: Values, sizes: Values) -> Values:
    """Standard error of the means of cases with these sums and sizes (..., cases), as ratios (Cochran 1977, 6.4)."""
    count, total = sums.shape[-1], sizes.sum(-1)
    left = sums - (sums.sum(-1) / total)[..., None] * sizes
    return np.asarray(np.sqrt(count / (count - 1) * (left**2).sum(-1)) / total)


def crossed_interval(values: Values, cases: Rows, *, within: tuple[float, float] = ANYTHING) -> Interval:
    """The mean of values (R, N) from R repetitions on the same N rows, with both repetitions and cases random.

    Its variance is at most that of the repetitions' means over R, and that of the cases' means over their number; the
    degrees of freedom are those of their sum (Satterthwaite 1946). Columns with NaN are left out; two repetitions and
    two cases are the least.
    """
    known = np.isfinite(values).all(axis=0)
    values, place = values[:, known], np.unique(cases[known], return_inverse=True)[1]
    sizes = np.bincount(place).astype(np.float64)
    value, means = float(values.mean()), values.mean(axis=1)
    sums = np.asarray(np.bincount(place, values.mean(axis=0)), np.float64)
    error = float(_standard_error(sums, sizes))
    parts = np.array([means.var(ddof=1) / len(means), error**2])
    variance, width = float(parts.sum()), 0.0
    if variance > 0:
        freedom = variance**2 / float((parts**2 / [len(means) - 1, len(sizes) - 1]).sum())
        width = float(stats.t.ppf(0.975, freedom)) * variance**0.5
    return {"value": value, "low": max(value - width, within[0]), "high": min(value + width, within[1])}


def share_interval(hits: npt.ArrayLike, cases: Rows, weights: Values | None = None) -> Interval | None:
    """The share of rows (N,) that are hits, by Wilson's interval for as many independent trials; None for no rows.

    The number of trials follows from how alike the rows of a case are. One case of hits and one of misses are added to
    estimate this, so that it is defined even where all rows are alike. Where each case is one row, the trials are the
    rows.
    """
    found = np.asarray(hits, np.float64)
    if not len(found):
        return None
    weight = np.ones(len(found)) if weights is None else weights
    place = np.unique(cases, return_inverse=True)[1]
    sums, sizes = np.bincount(place, weight * found), np.bincount(place, weight)
    count, mean = len(sizes), float(sizes.mean())
    value = min(float(sums.sum() / sizes.sum()), 1.0)
    sums, sizes = np.append(sums, [mean, 0.0]), np.append(sizes, [mean, mean])
    middle = sums.sum() / sizes.sum()
    variance = ((sums - middle * sizes) ** 2).sum() / sizes.sum() ** 2
    return wilson(value, float(middle * (1 - middle) / variance) * count / (count + 2))


def fraction_interval(value: float, redrawn: Values, least: int) -> Interval | None:
    """A figure between 0 and 1, with Wilson's interval for as many trials as match its resampled spread (B,).

    `least` is that number where there is no spread: the cases of the rarer kind. None where the figure is undefined.
    """
    redrawn = redrawn[np.isfinite(redrawn)]
    if not np.isfinite(value) or len(redrawn) < 2:
        return None
    variance = float(np.var(redrawn, ddof=1))
    varied = variance > 1e-12 and 0 < value < 1
    return wilson(value, value * (1 - value) / variance if varied else max(least, 1))


def wilson(share: float, trials: float) -> Interval:
    """A share of `trials` > 0 trials, with its interval (Wilson 1927)."""
    centre = (share + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    spread = Z / (1 + Z**2 / trials) * np.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    # At 0 and 1 the ends are exact, but rounding is not.
    low, high = min(float(max(centre - spread, 0.0)), share), max(float(min(centre + spread, 1.0)), share)
    return {"value": share, "low": low, "high": high}


def correlation_interval(value: float, redrawn: Values, cases: int) -> Interval | None:
    """A correlation, with an interval from resampled ones (B,) by Fisher's transformation (1915); None if undefined.

    Where no case departs from 1 or -1, none resampled does. The interval then ends where as many cases are unrelated as
    may well be, though none of those seen is (Clopper and Pearson 1934).
    """
    redrawn = redrawn[np.isfinite(redrawn)]
    if not np.isfinite(value) or len(redrawn) < 2 or cases < 2:
        return None
    if abs(value) >= ALMOST:
        low, high = sorted([value, value * (1 - unseen_share(cases))])
        return {"value": value, "low": low, "high": high}
    if (np.abs(redrawn) < ALMOST).all():
        spread = np.arctanh(redrawn).std(ddof=1)
    else:  # a resampled 1 has no finite transform; then the delta method gives its spread
        spread = redrawn.std(ddof=1) / (1 - value**2)
    bent, width = np.arctanh(value), stats.t.ppf(0.975, cases - 1) * spread
    return {"value": value, "low": float(np.tanh(bent - width)), "high": float(np.tanh(bent + width))}


def around(value: float, redrawn: Values, cases: int, *, least: float = -np.inf) -> dict[str, float | None]:
    """For any other figure: the value +- Student's t times the standard deviation of resampled ones (B,).

    Percentiles of distances may not even contain the value, since distances grow with fewer rows. `least` is the
    figure's lower bound.
    """
    redrawn = redrawn[np.isfinite(redrawn)]
    if min(len(redrawn), cases) < 2:
        return {"value": value, "low": None, "high": None}
    spread = float(stats.t.ppf(0.975, min(cases, len(redrawn)) - 1) * np.std(redrawn, ddof=1))
    return {"value": value, "low": max(value - spread, least), "high": value + spread}


def redraw(cases: Rows, statistic: Callable[[Rows], float], *, seed: int = 0, draws: int = DRAWS) -> Values:
    """`statistic` of the rows of as many cases as there are, drawn with replacement (Efron 1979); none of one case.

    `cases` (N,) names the case of each row.
    """
    names, place = np.unique(cases, return_inverse=True)
    if len(names) < 2:
        return np.empty(0)
    members = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    return np.array([statistic(np.concatenate([members[case] for case in row])) for row in drawn], np.float64)


def half_samples(cases: Rows, seed: int, draws: int) -> Iterator[Rows]:
    """The rows of half the cases at random, `draws` times over; none of one case.

    Figures of the halves spread as those of whole samples do (Shao and Wu 1989): n / 2 of n cases without replacement
    have the variance (1 - 1/2) s^2 / (n / 2) = s^2 / n. And unlike in a bootstrap, no row is its own neighbour.
    """
    if len(np.unique(cases)) < 2:
        return
    random = np.random.default_rng(seed)
    for _ in range(draws):
        yield halves(cases, random)[random.integers(2)]


def half_weights(cases: Rows, seed: int, draws: int) -> Values:
    """Which rows (N,) are in each of `half_samples`, 1 or 0, (draws, N)."""
    rows = [np.bincount(half, minlength=len(cases)) for half in half_samples(cases, seed, draws)]
    return np.array(rows, np.float64).reshape(len(rows), len(cases))


def halves(cases: Rows, random: np.random.Generator) -> tuple[Rows, Rows]:
    """Split the rows into two parts of similar size that share no case: slices of one patient resemble each other."""
    place = np.unique(cases, return_inverse=True)[1]
    counts = np.bincount(place)
    order = random.permutation(len(counts))
    first = int(np.searchsorted(np.cumsum(counts[order]), len(cases) / 2)) + 1
    inside = np.isin(place, order[: min(first, len(order) - 1)])
    return np.flatnonzero(inside), np.flatnonzero(~inside)
