"""How reliably each rater answers: whether the answers follow what all the other answers say of the same case.

Beliefs that an answer has itself shaped seem to agree with it, so that one who throws dice would look half reliable.
Each answer is therefore held against the belief without it, which follows from the Gaussian approximation around the
most probable beliefs (the cavity of expectation propagation; Vehtari et al. 2016).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from medgen.feedback.selector.likelihood import Estimate, estimate
from medgen.imaging.labels.answers import Answers

Values = npt.NDArray[np.float64]

LEAST = 1e-3
"""Precision that is left of a belief without an answer, at least."""


def reliabilities(answers: Answers, kernel: Values, belief: Values, found: Estimate) -> Values:
    """Slopes of the raters (R,), 1 for the most reliable one and 0 for those whose answers follow nothing.

    `kernel` (C, C) and the most probable `belief` (C,) of the cases, which answers give by number.
    """
    points = np.concatenate([[-np.inf], found.cutpoints, [np.inf]])
    level, slopes = answers.value.astype(np.int64), found.slope[answers.rater]
    at = slopes * belief[answers.case] + found.bias[answers.rater]
    upper, lower = expit(points[level] - at), expit(points[level - 1] - at)
    pull, weight = slopes * (upper + lower - 1), slopes**2 * (upper * (1 - upper) + lower * (1 - lower))
    leads, steep = belief[answers.first] - belief[answers.second], found.slope[answers.judge]
    wins = expit(steep * leads)
    pair_pull, pair_weight = steep * (answers.preference - wins), steep**2 * wins * (1 - wins)

    count = len(belief)
    precision = np.linalg.inv(kernel)
    np.add.at(precision, (answers.case, answers.case), weight)
    ends = ((answers.first, answers.first, 1), (answers.second, answers.second, 1))
    for row, column, sign in (*ends, (answers.first, answers.second, -1), (answers.second, answers.first, -1)):
        np.add.at(precision, (row, column), sign * pair_weight)
    spread = np.linalg.inv(precision)
    own = spread.diagonal()
    between = own[answers.first] + own[answers.second] - 2 * spread[answers.first, answers.second]
    alone = belief[answers.case] - pull / np.maximum(1 / own[answers.case] - weight, LEAST)
    lead_alone = leads - pair_pull / np.maximum(1 / between - pair_weight, LEAST)

    # Each answer gets a case of its own, with the belief without it; comparisons are with a case of belief 0.
    basis = np.concatenate([alone, lead_alone, [0.0]])[:, None]
    rated, compared = len(alone), len(lead_alone)
    apart = replace(
        answers,
        case=np.arange(rated),
        first=np.arange(rated, rated + compared),
        second=np.full(compared, rated + compared),
    )
    held = estimate(apart, basis / max(float(basis.std()), 1e-9))
    known = np.maximum(held.slope * held.z[0], 0.0)
    if count < 2 or not known.any():
        return np.ones(len(known))
    return np.asarray(known / known.max())
