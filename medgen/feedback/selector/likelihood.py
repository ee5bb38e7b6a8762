"""How probable answers are, given how good the cases are and how each rater answers.

Ratings follow cumulative logits (McCullagh 1980), comparisons the model of Bradley and Terry (1952):

    P(rater r gives case i at most k) = sigmoid(cutpoint k - slope r * belief i - bias r)
    P(rater r prefers case i to case j) = sigmoid(slope r * (belief i - belief j))

A rater who answers at random has a slope near 0 and so no weight; one who is strict has a bias below 0. Beliefs are
`basis` @ z with z ~ N(0, 1), which holds a Gaussian process (basis = Cholesky factor of its kernel) as well as a
single known score (basis = one column).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from medgen.imaging.labels.answers import Answers
from medgen.nets.scorer import STEPS

Values = npt.NDArray[np.float64]

FIRST_CUT = -2.0
"""Where the first cutpoint is expected, with a deviation of 2; the next ones follow at distances of about 1."""
BIAS_SPREAD = 1.0
SLOPE_SPREAD = 0.5
"""How far raters' biases lie from 0, and their slopes from 1."""
TINY = 1e-12
MOST_ROUNDS = 500


@dataclass(frozen=True)
class Estimate:
    """The most probable values."""

    z: Values
    """(d,) coefficients of the basis."""
    cutpoints: Values
    """(4,)"""
    bias: Values
    """(R,)"""
    slope: Values
    """(R,)"""

    def typical_slope(self) -> float:
        """The slope of raters, each weighted by it, since unreliable ones say little."""
        known = np.maximum(self.slope, 0.0)
        return float((known**2).sum() / known.sum()) if known.any() else 0.0


def estimate(answers: Answers, basis: Values, slopes: Values | None = None) -> Estimate:
    """The most probable beliefs `basis` (C, d) @ z, cutpoints and raters. Cases are rows of the basis.

    With `slopes` (R,), those of the raters are known.
    """
    size, raters = basis.shape[1], len(answers.raters)
    first = np.ones(raters) if slopes is None else slopes
    start = np.concatenate([np.zeros(size), [FIRST_CUT], np.zeros(STEPS - 1), np.zeros(raters), first])
    free = np.ones(len(start))
    free[len(start) - raters :] = slopes is None

    def of_free(values: Values) -> tuple[float, Values]:
        total, gradient = cost(values, answers, basis)
        return total, gradient * free

    settings: Any = {"maxiter": MOST_ROUNDS, "maxcor": 20, "ftol": 1e-9, "gtol": 1e-5}
    found = minimize(of_free, start, method="L-BFGS-B", jac=True, options=settings)
    z, cuts, bias, slope = _parts(found.x, size, raters)
    return Estimate(z, _cutpoints(cuts), bias, slope)


def cost(values: Values, answers: Answers, basis: Values) -> tuple[float, Values]:
    """Minus the log of the posterior density of z, cutpoints, biases and slopes in one vector, and its gradient."""
    size, raters = basis.shape[1], len(answers.raters)
    z, cuts, bias, slope = _parts(values, size, raters)
    belief = basis @ z
    by_belief, by_point = np.zeros(len(belief)), np.zeros(STEPS + 2)
    by_bias, by_slope = np.zeros(raters), np.zeros(raters)
    total = 0.0
    if len(answers.value):
        points = np.concatenate([[-np.inf], _cutpoints(cuts), [np.inf]])
        level = answers.value.astype(np.int64)  # 1 to 5: between points level - 1 and level
        slopes = slope[answers.rater]
        at = slopes * belief[answers.case] + bias[answers.rater]
        upper, lower = expit(points[level] - at), expit(points[level - 1] - at)
        share = np.maximum(upper - lower, TINY)
        total -= float(np.log(share).sum())
        by_at = 1.0 - upper - lower
        by_belief += np.bincount(answers.case, by_at * slopes, len(belief))
        by_bias += np.bincount(answers.rater, by_at, raters)
        by_slope += np.bincount(answers.rater, by_at * belief[answers.case], raters)
        by_point -= np.bincount(level, upper * (1 - upper) / share, STEPS + 2)
        by_point += np.bincount(level - 1, lower * (1 - lower) / share, STEPS + 2)
    if len(answers.preference):
        slopes = slope[answers.judge]
        lead = belief[answers.first] - belief[answers.second]
        margin = slopes * lead
        total += float(np.logaddexp(0.0, margin).sum() - (answers.preference * margin).sum())
        by_margin = expit(margin) - answers.preference
        by_belief += np.bincount(answers.first, by_margin * slopes, len(belief))
        by_belief -= np.bincount(answers.second, by_margin * slopes, len(belief))
        by_slope += np.bincount(answers.judge, by_margin * lead, raters)
    by_cut = np.cumsum(by_point[STEPS:0:-1])[::-1] * np.concatenate([[1.0], np.exp(cuts[1:])])
    away = (cuts - np.array([FIRST_CUT] + [0.0] * (STEPS - 1))) / np.array([2.0] + [1.0] * (STEPS - 1)) ** 2
    total += 0.5 * float(z @ z) + 0.5 * float((cuts[0] - FIRST_CUT) ** 2 / 4 + (cuts[1:] ** 2).sum())
    total += 0.5 * float((bias**2).sum() / BIAS_SPREAD**2 + ((slope - 1) ** 2).sum() / SLOPE_SPREAD**2)
    parts = [
        basis.T @ by_belief + z,
        by_cut + away,
        by_bias + bias / BIAS_SPREAD**2,
        by_slope + (slope - 1) / SLOPE_SPREAD**2,
    ]
    return total, np.concatenate(parts)


def log_likelihood(answers: Answers, belief: Values, fitted: Estimate) -> float:
    """Log of the probability of answers, given beliefs (C,)."""
    total = 0.0
    if len(answers.value):
        points = np.concatenate([[-np.inf], fitted.cutpoints, [np.inf]])
        level = answers.value.astype(np.int64)
        at = fitted.slope[answers.rater] * belief[answers.case] + fitted.bias[answers.rater]
        share = expit(points[level] - at) - expit(points[level - 1] - at)
        total += float(np.log(np.maximum(share, TINY)).sum())
    if len(answers.preference):
        margin = fitted.slope[answers.judge] * (belief[answers.first] - belief[answers.second])
        total += float((answers.preference * margin).sum() - np.logaddexp(0.0, margin).sum())
    return total


def _parts(values: Values, size: int, raters: int) -> tuple[Values, Values, Values, Values]:
    ends = np.cumsum([size, STEPS, raters])
    z, cuts, bias, slope = np.split(values, ends)
    return z, cuts, bias, slope


def _cutpoints(cuts: Values) -> Values:
    """The first cutpoint and the logarithms of the distances to the next ones -> cutpoints, in order."""
    return np.cumsum(np.concatenate([cuts[:1], np.exp(cuts[1:])]))
