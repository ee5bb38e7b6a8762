"""From ratings and features to a selector: one fit per aspect, calibrated on unseen cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit

from medgen.feedback.selector.fitting import Described, Fitted, fit_best
from medgen.feedback.selector.held_out import consensus, held_out_beliefs, of_ratings, trust_in
from medgen.feedback.selector.likelihood import estimate
from medgen.imaging.labels.answers import Answers
from medgen.models.facts import Trust
from medgen.nets.scorer import HIGHEST, LOWEST, STEPS, Scorer, ScorerConfig
from medgen.reporting import Advance, unseen

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Aspect:
    """What was learned about one aspect."""

    answers: Answers
    fitted: Fitted
    held_out: Values
    """(C,) beliefs without the case's own group, calibrated; NaN without answers."""
    truth: Values
    """(C,) the raters' mean, NaN where there is none."""
    gain: float
    """Calibration: factor of beliefs."""
    cutpoints: Values
    """(4,) of a typical rater."""
    trust: Trust

    def reliabilities(self) -> dict[str, dict[str, float]]:
        """How much each rater's answers follow what all see in the cases, 0 to 1, and how mild they are, in logits."""
        slope, bias = self.fitted.found.slope, self.fitted.found.bias
        slope = slope / max(float(slope.max()), 1e-9)
        counts = np.bincount(np.concatenate([self.answers.rater, self.answers.judge]), minlength=len(slope))
        rows = zip(self.answers.raters, slope, bias, counts, strict=True)
        return {
            name: {"answers": int(count), "weight": round(max(float(one), 0.0), 3), "bias": round(float(other), 3)}
            for name, one, other, count in rows
            if count
        }


@dataclass(frozen=True)
class Learned:
    """All aspects, and those that the overall score averages."""

    aspects: dict[str, Aspect]
    combined: tuple[str, ...]
    overall: Trust


def learn(described: Described, answers: Mapping[str, Answers], seed: int, advance: Advance = unseen) -> Learned:
    """Learn each aspect; the score is the mean over those whose predictions hold, or over all if none's do."""
    aspects = {}
    for name, given in answers.items():
        aspects[name] = _aspect(described, given, seed)
        advance(1, name)
    combined = tuple(name for name, one in aspects.items() if one.trust.says) or tuple(aspects)
    return Learned(aspects, combined, _overall([aspects[name] for name in combined], described, seed))


def _aspect(described: Described, answers: Answers, seed: int) -> Aspect:
    fitted = fit_best(described, answers, seed)
    beliefs = held_out_beliefs(described, answers, seed)
    truth = consensus(answers, fitted)
    trust = trust_in(beliefs, truth, answers, described.groups, seed)
    # Beliefs about cases that a fit has seen are too sure: what they mean in ratings is learned from those it has not.
    calibrated = estimate(answers, np.nan_to_num(beliefs)[:, None])
    gain = max(float(calibrated.z[0]), 0.0) * calibrated.typical_slope()
    cutpoints = calibrated.cutpoints
    if not len(answers.value):  # the score of a case then follows from the share of those compared that it would beat
        known = described.kernel(fitted.gains) @ fitted.dual
        cutpoints = gain * np.quantile(known[answers.cases()], (np.arange(STEPS) + 0.5) / STEPS)
    return Aspect(answers, fitted, gain * beliefs, truth, gain, cutpoints, trust)


def _overall(aspects: Sequence[Aspect], described: Described, seed: int) -> Trust:
    """The trust in the mean of several aspects' scores."""
    if len(aspects) == 1:
        return aspects[0].trust
    rated = [one for one in aspects if len(one.answers.value)]
    if not rated:
        return max((one.trust for one in aspects), key=lambda trust: trust.value or 0.0)
    scores = np.mean([expected(one.held_out, one.cutpoints) for one in rated], axis=0)
    truth = np.mean([one.truth for one in rated], axis=0)
    return of_ratings(scores, truth, described.groups, sum(len(one.answers.value) for one in rated), seed)


def expected(beliefs: Values, cutpoints: Values) -> Values:
    """The rating to expect at calibrated beliefs (C,), from 1 to 5."""
    return np.asarray(LOWEST + (HIGHEST - LOWEST) * expit(beliefs[:, None] - cutpoints).mean(axis=1))


def scorer_of(learned: Learned, described: Described) -> Scorer:
    """The network that scores as learned."""
    aspects = list(learned.aspects.values())
    config = ScorerConfig(len(aspects), described.image.shape[1], described.request.shape[1])
    scorer = Scorer(config)
    image, request = described.scaling()
    forms = [one.gain * described.weights(one.fitted.gains, one.fitted.dual) for one in aspects]
    values = {
        "image_mean": image.mean,
        "image_spread": image.spread,
        "request_mean": request.mean,
        "request_spread": request.spread,
        "weight": np.stack(forms),
        "cutpoints": np.stack([one.cutpoints for one in aspects]),
    }
    scorer.load_state_dict({name: torch.from_numpy(array).float() for name, array in values.items()})
    return scorer
