"""How far raters agree: quadratic weighted kappa and the intraclass correlation ICC(2,1), with intervals over items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from medgen.evaluation.intervals import Interval, correlation_interval, redraw, unseen_share

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

FEWEST = 3
"""Items that all raters answered below which agreement is not defined."""


def weighted_kappa(answers: Values) -> float:
    """Cohen's kappa (1968) of two raters' answers (N, 2) with quadratic weights; NaN where both always say the same.

    1 - observed / expected squared difference: of answers to one item, and of any of the one's with any of the
    other's. For answers of two values it is the unweighted kappa.
    """
    ours, theirs = answers.T
    expected = ours.var() + theirs.var() + (ours.mean() - theirs.mean()) ** 2
    if expected <= 0:
        return float("nan")
    return float(1.0 - np.mean((ours - theirs) ** 2) / expected)


def intraclass_correlation(answers: Values) -> float:
    """ICC(2,1) of Shrout and Fleiss (1979) of N items and K raters (N, K): of single ratings, by raters at random.

    A rater who is stricter than others lowers it. Of few items that raters see in opposite ways the estimate may lie
    below -1; it is -1 then. NaN where nothing varies.
    """
    count, raters = answers.shape
    mean, by_item, by_rater = answers.mean(), answers.mean(axis=1), answers.mean(axis=0)
    items = raters * ((by_item - mean) ** 2).sum() / (count - 1)
    between = count * ((by_rater - mean) ** 2).sum() / (raters - 1)
    left = answers - by_item[:, None] - by_rater + mean
    error = (left**2).sum() / ((count - 1) * (raters - 1))
    whole = items + (raters - 1) * error + raters * (between - error) / count
    return max(float((items - error) / whole), -1.0) if whole > 0 else float("nan")


def with_interval(figure: Callable[[Values], float], answers: Values, cases: Rows, seed: int) -> Interval | None:
    """A figure of answers (N, K), with its interval from items redrawn by case (N,); None where it is not defined.

    Nor is it where fewer than two raters vary: agreement with one who always says the same is 0, whatever others say.
    Where raters never differ, all redrawn items agree too. The interval then begins where they differ by one step in as
    many cases as may well do so, though none of those seen does (Clopper and Pearson 1934).
    """
    if len(answers) < FEWEST or (np.ptp(answers, axis=0) > 0).sum() < 2:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        value, count = figure(answers), len(np.unique(cases))
        if np.ptp(answers, axis=1).max() == 0 and np.isfinite(value):
            steps = np.diff(np.unique(answers))
            low = 1 - unseen_share(count) * float(steps.min()) ** 2 / (2 * float(answers.var()))
            return {"value": value, "low": max(low, -1.0), "high": 1.0}
        redrawn = redraw(cases, lambda rows: figure(answers[rows]), seed=seed)
        return correlation_interval(value, redrawn, count)
