"""What a selector learns from simulated raters whose rule is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.optimize import check_grad
from scipy.stats import spearmanr

from medgen.feedback.selector.fitting import Described, Fitted, Gains, Scaling, fit, fit_best
from medgen.feedback.selector.learning import Learned, expected, learn, scorer_of
from medgen.feedback.selector.likelihood import cost
from medgen.imaging.labels.answers import Answers

Values = npt.NDArray[np.float64]
NONE = np.zeros(0, np.int64)
CASES = 60


@pytest.fixture(scope="module")
def described() -> Described:
    """Features of images and requests of 2 x 60 cases; the second half is never rated."""
    random = np.random.default_rng(0)
    image, request = random.normal(size=(2 * CASES, 12)), random.normal(size=(2 * CASES, 2))
    return Described(image, request, np.arange(2 * CASES))


def quality_of(described: Described) -> Values:
    """The hidden rule: two features of the image count, one of them as far as the request asks for it."""
    image, request = described.image, described.request
    return np.asarray(image[:, 0] + image[:, 1] * request[:, 0])


def rated(quality: Values, noise: list[float], bias: list[float], seed: int = 1) -> Answers:
    """Each rater's grades of the first half; one with infinite noise throws dice."""
    random = np.random.default_rng(seed)
    grades = []
    for spread, mild in zip(noise, bias, strict=True):
        seen = quality[:CASES] + random.normal(0, min(spread, 1e6), CASES) + mild
        grade = np.clip(np.rint(3 + seen), 1, 5)
        grades.append(grade if np.isfinite(spread) else random.integers(1, 6, CASES).astype(float))
    raters = np.repeat(np.arange(len(noise)), CASES)
    names = tuple("abcdef"[: len(noise)])
    cases, nobody = np.tile(np.arange(CASES), len(noise)), np.zeros(0)
    return Answers(names, raters, cases, np.concatenate(grades), NONE, NONE, NONE, nobody)


def compared(quality: Values, count: int, seed: int = 1) -> Answers:
    """One rater's preferences among the first half, with noise."""
    random = np.random.default_rng(seed)
    first, second = np.array([random.choice(CASES, 2, replace=False) for _ in range(count)]).T
    lead = quality[first] - quality[second] + random.normal(0, 0.5, count)
    preference = np.where(np.abs(lead) < 0.2, 0.5, (lead > 0).astype(float))
    return Answers(("a",), NONE, NONE, np.zeros(0), np.zeros(count, np.int64), first, second, preference)


def test_the_gradient_is_that_of_the_cost() -> None:
    random = np.random.default_rng(0)
    rows = {name: random.integers(0, 5, 30) for name in ("case", "first", "second")}
    raters = {name: random.integers(0, 2, 30) for name in ("rater", "judge")}
    answers = Answers(
        ("a", "b"), raters["rater"], rows["case"], random.integers(1, 6, 30).astype(float),
        raters["judge"], rows["first"], rows["second"], random.choice([0, 0.5, 1], 30),
    )  # fmt: skip
    basis = random.normal(size=(5, 3))
    for seed in range(3):
        start = np.random.default_rng(seed).normal(size=3 + 4 + 4)
        gap = check_grad(lambda x: cost(x, answers, basis)[0], lambda x: cost(x, answers, basis)[1], start)
        assert gap < 1e-3 * np.linalg.norm(cost(start, answers, basis)[1])


def test_two_good_raters_outweigh_one_who_throws_dice(described: Described) -> None:
    kernel, gains = described.kernel(Gains(2.0, 2.0, 2.0)), Gains(2.0, 2.0, 2.0)
    weights = []
    for seed in range(4):
        found = fit(kernel, rated(quality_of(described), [0.3, 0.3, np.inf], [0.7, -0.7, 0.0], seed), gains).found
        assert found.bias[0] > found.bias[1] + 1
        weights.append(found.slope)
    good, better, dice = np.mean(weights, axis=0)
    assert dice < 0.4 * min(good, better)


@pytest.fixture(scope="module")
def learned(described: Described) -> Learned:
    """From one rater who sees the quality as `anatomy`, and throws dice for the other aspect."""
    quality = quality_of(described)
    aspects = {"anatomy": rated(quality, [0.5], [0.0]), "dice": rated(quality, [np.inf], [0.0], seed=3)}
    return learn(described, aspects, seed=0)


def test_a_selector_of_ratings_predicts_cases_that_nobody_rated(described: Described, learned: Learned) -> None:
    quality, trust, scorer = quality_of(described), learned.aspects["anatomy"].trust, scorer_of(learned, described)
    assert trust.says
    assert trust.low is not None
    assert trust.high is not None
    scores = scorer(torch.from_numpy(described.image).float(), torch.from_numpy(described.request).float())[:, 0]
    assert trust.low < spearmanr(scores[CASES:], quality[CASES:]).statistic < trust.high + 0.2
    grades = np.clip(np.rint(3 + quality[CASES:]), 1, 5)
    assert abs(float(scores[CASES:].mean()) - grades.mean()) < 0.4
    assert np.abs(scores[CASES:].numpy() - grades).mean() < np.abs(grades - grades.mean()).mean()


def test_the_gains_are_chosen_by_some_of_many_cases(described: Described, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time grows with the third power of the cases, twelve times over."""
    sizes = []

    def counted(kernel: Values, answers: Answers, gains: Gains) -> Fitted:
        sizes.append(len(answers.cases()))
        return fit(kernel, answers, gains)

    monkeypatch.setattr("medgen.feedback.selector.fitting.fit", counted)
    monkeypatch.setattr("medgen.feedback.selector.fitting.ENOUGH", 24)
    quality = quality_of(described)
    for answers in (rated(quality, [0.3], [0.0]), compared(quality, 60)):
        sizes.clear()
        fit_best(described, answers, seed=0)
        *choosing, last = sizes
        assert last == len(answers.cases())
        assert max(choosing) <= 24
        assert min(choosing) >= 12


def test_a_few_features_of_the_place_asked_for_are_not_lost_among_many_of_the_whole_image() -> None:
    random = np.random.default_rng(4)
    image, request = random.normal(size=(2 * CASES, 304)), np.zeros((2 * CASES, 0))
    quality = 1.5 * image[:, -2]  # one of the last four, those of the place
    found = {}
    for regions in (0, 4):
        described = Described(image, request, np.arange(2 * CASES), regions)
        form = learn(described, {"anatomy": rated(quality, [0.5], [0.0])}, seed=0)
        scores = scorer_of(form, described)(torch.from_numpy(image).float(), torch.zeros(2 * CASES, 0))[:, 0]
        found[regions] = spearmanr(scores[CASES:], quality[CASES:]).statistic
    assert found[4] > 0.75 > found[0]


def test_two_kinds_of_features_have_half_of_the_kernel_each() -> None:
    features = np.random.default_rng(0).normal(3.0, 2.0, (50, 12))
    features[:, 10] = 1.0  # never varies, and does not count
    squares = np.square(Scaling.of(features, 2)(features)).mean(axis=0)
    assert squares[:10].sum() == pytest.approx(0.5)
    assert squares[10:].sum() == pytest.approx(0.5)


def test_an_aspect_rated_by_dice_says_nothing_and_does_not_count(learned: Learned) -> None:
    assert learned.combined == ("anatomy",)
    assert not learned.aspects["dice"].trust.says
    assert learned.overall == learned.aspects["anatomy"].trust


def test_a_selector_of_comparisons_predicts_preferences(described: Described) -> None:
    quality = quality_of(described)
    learned = learn(described, {"overall": compared(quality, 120)}, seed=0)
    assert learned.overall.says
    scorer = scorer_of(learned, described)
    scores = scorer(torch.from_numpy(described.image).float(), torch.from_numpy(described.request).float())[:, 0]
    assert spearmanr(scores[CASES:], quality[CASES:]).statistic > 0.5
    assert float(scores.min()) >= 1
    assert float(scores.max()) <= 5


def test_expected_ratings_follow_the_cutpoints() -> None:
    beliefs = np.array([-50.0, 0.0, 50.0])
    assert expected(beliefs, np.array([-3.0, -1.0, 1.0, 3.0])) == pytest.approx([1.0, 3.0, 5.0])
