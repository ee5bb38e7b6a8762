"""Fitting a selector's beliefs: a Gaussian process over cases, which is a bilinear form of their features.

Its kernel joins the kernels of images and requests, and their product, by which an image can be good for one request
and bad for another (Rasmussen and Williams 2006, 4.2.4). What a case has beyond its features is a term of its own, so
that raters who agree with each other are trusted even where features cannot follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medgen.feedback.selector.likelihood import Estimate, estimate, log_likelihood
from medgen.feedback.selector.reliability import reliabilities
from medgen.imaging.labels.answers import Answers

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]

OWN = 0.5
"""Variance of what a case has beyond its features, in squared logits."""
STEADY = 1e-6
"""Spread below which a feature counts as constant."""
CHOOSING = 3
"""Folds by which the gains are chosen."""
ENOUGH = 300
"""Cases by whose answers they are chosen: more would change little, and take the third power of their number."""


class Gains(NamedTuple):
    """Variance of beliefs, in squared logits, by features of the image, of the request, and by both together."""

    image: float
    request: float
    both: float


STRENGTHS = (0.5, 2.0, 8.0, 32.0)


class Scaling(NamedTuple):
    """What makes each column of features (C, F) have mean 0, and the squares of a row sum to 1 on average.

    Of two kinds of features, each has half of that sum, however few it has.
    """

    mean: Values
    """(F,)"""
    spread: Values
    """(F,)"""

    @classmethod
    def of(cls, features: Values, last: int = 0) -> Scaling:
        """The scaling by which features of a kind count alike; the `last` are a second kind.

        Features that never vary do not count.
        """
        spread = features.std(axis=0)
        varied = spread > STEADY
        second = np.arange(len(spread)) >= len(spread) - last
        counts = [int((varied & kind).sum()) for kind in (~second, second)]
        kinds = max(sum(count > 0 for count in counts), 1)
        share = np.where(second, *(kinds * max(count, 1) for count in reversed(counts)))
        return cls(features.mean(axis=0), np.where(varied, spread, 1.0) * np.sqrt(share))

    def __call__(self, features: Values) -> Values:
        """The scaled features, (C, F)."""
        return np.asarray((features - self.mean) / self.spread)


@dataclass(frozen=True)
class Described:
    """Features of C cases."""

    image: Values
    """(C, F)"""
    request: Values
    """(C, R)"""
    groups: Rows
    """(C,) the patient, or whatever must not be in two folds."""
    regions: int = 0
    """How many of the image's features, the last ones, are about the regions that requests name."""

    def scaling(self) -> tuple[Scaling, Scaling]:
        """Those of images and of requests."""
        return Scaling.of(self.image, self.regions), Scaling.of(self.request)

    def scaled(self) -> tuple[Values, Values]:
        """Both features, scaled."""
        image, request = self.scaling()
        return image(self.image), request(self.request)

    def candidates(self) -> list[Gains]:
        """The gains to choose from; where requests do not vary, of the image alone."""
        found = [Gains(one, 0.0, 0.0) for one in STRENGTHS]
        if len(self.request) and (np.ptp(self.request, axis=0) > STEADY).any():
            found += [Gains(one, one, 0.0) for one in STRENGTHS] + [Gains(one, one, one) for one in STRENGTHS]
        return found

    def kernel(self, gains: Gains) -> Values:
        """Covariance of the cases' beliefs, (C, C)."""
        image, request = (part @ part.T for part in self.scaled())
        return np.asarray(gains.image * image + gains.request * request + gains.both * image * request)

    def weights(self, gains: Gains, dual: Values) -> Values:
        """The bilinear form (F + 1, R + 1) of scaled features that `kernel @ dual` is; its constant is 0."""
        image, request = self.scaled()
        form = np.zeros((image.shape[1] + 1, request.shape[1] + 1))
        form[:-1, -1] = gains.image * (image.T @ dual)
        form[-1, :-1] = gains.request * (request.T @ dual)
        form[:-1, :-1] = gains.both * (image.T @ (dual[:, None] * request))
        return form


@dataclass(frozen=True)
class Fitted:
    """A fit to the answers about some cases."""

    gains: Gains
    dual: Values
    """(C,), 0 for cases without answers."""
    found: Estimate


def fit(kernel: Values, answers: Answers, gains: Gains) -> Fitted:
    """The most probable beliefs under the kernel (C, C) of these gains, given the answers."""
    rows = answers.cases()
    inner = kernel[np.ix_(rows, rows)] + OWN * np.eye(len(rows))
    basis = np.zeros((len(kernel), len(rows)))
    basis[rows] = np.linalg.cholesky(inner)
    found = estimate(answers, basis)
    if len(np.unique(np.concatenate([answers.rater, answers.judge]))) > 1:
        slopes = reliabilities(answers.renumbered(rows), inner, (basis @ found.z)[rows], found)
        found = estimate(answers, basis, slopes)
    dual = np.zeros(len(kernel))
    dual[rows] = np.linalg.solve(basis[rows].T, found.z)
    return Fitted(gains, dual, found)


def fit_best(described: Described, answers: Answers, seed: int) -> Fitted:
    """As `fit`, with the gains under which answers about left-out cases are most probable."""
    best, highest = Gains(STRENGTHS[0], 0.0, 0.0), -np.inf
    some = answers.among(_some_cases(answers, len(described.groups), seed))
    parts = list(folds(described.groups, some.cases(), CHOOSING, seed))
    for gains in described.candidates():
        kernel, total = described.kernel(gains), 0.0
        for out in parts:
            known, left = some.among(~out), some.among(out)
            if not len(known) or not len(left):
                continue
            fitted = fit(kernel, known, gains)
            total += log_likelihood(left, kernel @ fitted.dual, fitted.found)
        if total > highest:
            best, highest = gains, total
    return fit(described.kernel(best), answers, best)


def _some_cases(answers: Answers, count: int, seed: int) -> Chosen:
    """Which of the `count` cases the answers are about, or ENOUGH of them: those of answers drawn at random."""
    rated, compared = answers.case[:, None].repeat(2, 1), np.stack([answers.first, answers.second], 1)
    drawn = np.random.default_rng(seed).permutation(np.concatenate([rated, compared])).ravel()
    names, first = np.unique(drawn, return_index=True)
    chosen = np.zeros(count, bool)
    chosen[names[np.argsort(first)][:ENOUGH]] = True
    return chosen


def folds(groups: Rows, cases: Sequence[int] | Rows, count: int, seed: int) -> Iterator[Chosen]:
    """Which cases (C,) are left out, a `count`th of the groups that the given cases are in at a time."""
    names = np.random.default_rng(seed).permutation(np.unique(groups[cases]))
    for part in range(min(count, len(names))):
        yield np.isin(groups, names[part::count])
