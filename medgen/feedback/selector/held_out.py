"""How far a selector can be trusted: how its beliefs about unseen cases follow the answers about them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from medgen.evaluation.intervals import correlation_interval, mean_interval, redraw
from medgen.feedback.selector.fitting import Described, Fitted, fit_best, folds
from medgen.imaging.labels.answers import Answers
from medgen.models.facts import Trust

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

FOLDS = 5
FEWEST = 10
"""Rated cases below which nothing is said."""
DRAWS = 400


def held_out_beliefs(described: Described, answers: Answers, seed: int) -> Values:
    """Each case's belief (C,) by a fit to answers about other groups; NaN for cases without answers."""
    beliefs = np.full(len(described.groups), np.nan)
    cases = answers.cases()
    asked = np.isin(np.arange(len(beliefs)), cases)
    for out in folds(described.groups, cases, FOLDS, seed):
        known = answers.among(~out)
        if len(known):
            fitted = fit_best(described, known, seed)
            beliefs[out & asked] = (described.kernel(fitted.gains) @ fitted.dual)[out & asked]
    return beliefs


def consensus(answers: Answers, fitted: Fitted) -> Values:
    """The mean rating of each case (C,), less each rater's own mean, weighted by the raters' slopes; NaN if unrated."""
    slope = np.maximum(fitted.found.slope, 0.0)
    weight = slope[answers.rater] if slope[answers.rater].any() else np.ones(len(answers.rater))
    count = np.bincount(answers.rater, minlength=len(slope))
    mean = np.bincount(answers.rater, answers.value, len(slope)) / np.maximum(count, 1)
    cases = len(fitted.dual)
    total = np.bincount(answers.case, weight, cases)
    summed = np.bincount(answers.case, weight * (answers.value - mean[answers.rater]), cases)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, summed / total, np.nan)


def trust_in(beliefs: Values, truth: Values, answers: Answers, groups: Rows, seed: int) -> Trust:
    """How held-out beliefs (C,) follow ratings (`truth`, (C,)) or, where there are more of these, comparisons."""
    if len(answers.preference) > len(answers.value):
        return of_comparisons(beliefs, answers)
    return of_ratings(beliefs, truth, groups, len(answers.value), seed)


def of_ratings(beliefs: Values, truth: Values, groups: Rows, count: int, seed: int) -> Trust:
    """Spearman's correlation of beliefs and truth (C,), with its interval over groups."""
    known = np.isfinite(beliefs) & np.isfinite(truth)
    ours, theirs, owners = beliefs[known], truth[known], groups[known]
    if known.sum() < FEWEST:
        return Trust(count)

    def spearman(rows: Rows) -> float:
        a, b = rankdata(ours[rows]), rankdata(theirs[rows])
        return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")

    value = spearman(np.arange(len(ours)))
    drawn = redraw(owners, spearman, seed=seed, draws=DRAWS)
    return Trust(count, **(correlation_interval(value, drawn, len(np.unique(owners))) or {}))


def of_comparisons(beliefs: Values, answers: Answers) -> Trust:
    """The share of comparisons, without ties, that the beliefs (C,) order correctly, less that ordered wrongly."""
    lead = beliefs[answers.first] - beliefs[answers.second]
    known = np.isfinite(lead) & (answers.preference != 0.5)
    if known.sum() < FEWEST:
        return Trust(len(answers.preference))
    agreed = np.sign(lead[known]) * (2 * answers.preference[known] - 1)
    found = mean_interval(agreed, np.arange(len(agreed)), within=(-1.0, 1.0))
    return Trust(len(answers.preference), **(found or {}))
