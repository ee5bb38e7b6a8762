"""Agreement of raters against published tables and definitions, and `evaluate --ratings`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import GENERATED, Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run
from medgen.evaluation.ratings.reliability import intraclass_correlation, weighted_kappa, with_interval
from medgen.imaging.labels.ratings import REAL, Rating, RatingsFile, set_name

SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], np.float64
)
"""Table 2 of Shrout and Fleiss (1979): six targets, four judges."""


def test_the_published_intraclass_correlation() -> None:
    assert intraclass_correlation(SHROUT_FLEISS) == pytest.approx(0.29, abs=0.005)


@pytest.mark.parametrize("figure", [weighted_kappa, intraclass_correlation])
def test_raters_who_see_the_opposite_agree_by_minus_one(figure: Callable[..., float]) -> None:
    opposite = np.array([[1, 5], [2, 4], [3, 3], [4, 2], [5, 1]], np.float64)
    assert figure(opposite) == pytest.approx(-1)
    found = with_interval(figure, opposite, np.arange(5), 0)
    assert found is not None
    assert found["low"] == pytest.approx(-1)
    assert -1 < found["high"] < 0


def test_agreement_of_a_rater_with_herself_is_whole_and_with_a_stricter_one_less() -> None:
    ours = np.random.default_rng(0).integers(1, 6, 50).astype(float)
    same, stricter = np.stack([ours, ours], axis=1), np.stack([ours, ours - 1], axis=1)
    for figure in (weighted_kappa, intraclass_correlation):
        assert figure(same) == pytest.approx(1.0)
        assert 0.5 < figure(stricter) < 0.95


def test_weighted_kappa_by_its_definition() -> None:
    """1 - sum(w O) / sum(w E) with w = (i - j)^2, O and E the observed and expected tables (Cohen 1968)."""
    answers = np.random.default_rng(1).integers(1, 6, (200, 2))
    answers[:120, 1] = answers[:120, 0]
    observed = np.zeros((5, 5))
    np.add.at(observed, tuple(answers.T - 1), 1.0)
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / len(answers)
    weight = np.subtract.outer(np.arange(5), np.arange(5)) ** 2
    defined = 1 - (weight * observed).sum() / (weight * expected).sum()
    assert weighted_kappa(answers.astype(float)) == pytest.approx(defined)


def test_kappa_of_two_answers_is_cohens() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, expected 0.5, kappa 0.4."""
    rows = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    assert weighted_kappa(np.array(rows, float)) == pytest.approx(0.4)


def test_intervals_hold_the_figure_and_shrink_with_items() -> None:
    random = np.random.default_rng(0)
    widths = []
    for count in (20, 200):
        truth = random.normal(size=count)
        answers = np.clip(np.rint(3 + truth[:, None] + 0.7 * random.normal(size=(count, 2))), 1, 5)
        found = with_interval(weighted_kappa, answers, np.arange(count), 0)
        assert found is not None
        assert found["low"] < found["value"] < found["high"]
        widths.append(found["high"] - found["low"])
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("figure", [weighted_kappa, intraclass_correlation])
def test_raters_who_differ_once_or_never_have_a_narrow_interval(figure: Callable[..., float]) -> None:
    """Many redrawn samples then agree wholly, and Fisher's transform of 1 is infinite."""
    lows = []
    for count in (10, 30, 100):
        answers = np.repeat(np.resize([1.0, 2.0, 3.0, 4.0, 5.0], count)[:, None], 2, axis=1)
        never = with_interval(figure, answers, np.arange(count), 0)
        answers[0, 1] = 2.0
        once = with_interval(figure, answers, np.arange(count), 0)
        assert once is not None
        assert never is not None
        assert never["value"] == pytest.approx(never["high"])
        assert 0.6 < once["low"] < once["value"] < once["high"] < 1
        assert once["low"] < never["low"] < 1
        lows.append(never["low"])
    assert lows == sorted(lows)


def test_raters_who_always_say_the_same_have_no_agreement() -> None:
    assert with_interval(weighted_kappa, np.full((10, 2), 3.0), np.arange(10), 0) is None
    assert with_interval(intraclass_correlation, np.full((10, 2), 3.0), np.arange(10), 0) is None
    one_varies = np.stack([np.resize([1.0, 2.0, 5.0], 10), np.full(10, 3.0)], axis=1)
    assert with_interval(weighted_kappa, one_varies, np.arange(10), 0) is None
    assert with_interval(intraclass_correlation, one_varies, np.arange(10), 0) is None


def write(path: Path, count: int, synthetic: str) -> str:
    """A set of small images; its name in ratings."""
    header = SetHeader("image", derive("x", {"synthetic": synthetic}, sources="s"), Intensity())
    with create_set(path, header) as writer:
        for index in range(count):
            image = np.full((1, 1, 16, 16), index, np.int16)
            writer.write(Case(f"{synthetic or 'real'}-{index}", {"image": image}, "test", synthetic=synthetic))
    with open_set(path, random_access=True) as stored:
        return set_name(stored.tail.digest)


def test_evaluate_ratings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, real = write(tmp_path / "made.h5", 20, GENERATED), write(tmp_path / "real.h5", 10, "")
    with RatingsFile(tmp_path / "r.csv") as file:
        for index in range(20):
            grade = index % 5 + 1
            file.add(Rating(made, "anna", f"generated-{index}", "", "realism", grade))
            file.add(Rating(made, "bo", f"generated-{index}", "", "realism", min(grade + 1, 5)))
            file.add(Rating(made, "cleo", f"generated-{index}", "", "realism", 3.0))
            file.add(Rating(made, "anna", f"generated-{index}", "", REAL, float(index < 5)))
        for index in range(10):
            file.add(Rating(real, "anna", f"real-{index}", "", REAL, float(index < 8)))
            file.add(Rating("0" * 16, "anna", f"real-{index}", "", REAL, 1.0))
    words = ["evaluate", tmp_path / "made.h5", "--reference", tmp_path / "real.h5", "--ratings", tmp_path / "r.csv"]
    assert run([str(word) for word in [*words, "--metrics", "ratings", "-q", "-o", tmp_path / "out.json"]]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["sets"][0]["ratings"]
    assert [one["always"] for one in found["aspects"]["realism"]["raters"].values()] == [None, None, 3]
    assert "cleo rated every image 3" in capsys.readouterr().err
    pair = found["aspects"]["realism"]["pairs"][0]
    assert pair["cases"] == 20
    assert pair["weighted_kappa"]["low"] < pair["weighted_kappa"]["value"] < 1
    assert found["aspects"]["realism"]["raters"]["anna"]["mean"]["value"] == 3
    told = found["real_or_synthetic"]["raters"]["anna"]
    assert told["accuracy"]["value"] == pytest.approx(23 / 30)
    assert told["of_real"]["value"] == pytest.approx(0.8)
    assert told["of_synthetic"]["value"] == pytest.approx(0.75)
    assert found["of_other_sets"] == 10
