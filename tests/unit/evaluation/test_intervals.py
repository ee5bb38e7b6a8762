from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medgen.evaluation.intervals import (
    around,
    correlation_interval,
    fraction_interval,
    half_samples,
    half_weights,
    halves,
    mean_interval,
    redraw,
    share_interval,
    wilson,
)


def test_the_interval_of_a_mean_is_that_of_student_where_values_are_normal() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    result = mean_interval(values, np.arange(400), draws=4000)
    low, high = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert result is not None
    assert result["value"] == pytest.approx(values.mean())
    assert (result["low"], result["high"]) == pytest.approx((low, high), abs=0.03)


def test_few_cases_have_the_interval_of_student() -> None:
    values = np.array([1.0, 2.0, 4.0])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert mean_interval(values, np.arange(3)) == pytest.approx({"value": values.mean(), "low": low, "high": high})
    assert mean_interval(values, np.arange(3), within=(0.0, 5.0)) == {"value": values.mean(), "low": 0.0, "high": 5.0}


def test_a_skewed_mean_has_a_longer_arm_on_that_side() -> None:
    result = mean_interval(np.random.default_rng(0).exponential(size=30), np.arange(30))
    assert result is not None
    assert result["high"] - result["value"] > 1.2 * (result["value"] - result["low"])


def test_slices_of_one_case_are_no_evidence_of_their_own() -> None:
    by_case = np.random.default_rng(2).normal(size=40)
    copies, cases = np.repeat(by_case, 25), np.repeat(np.arange(40), 25)
    assert mean_interval(copies, cases) == pytest.approx(mean_interval(by_case, np.arange(40)))
    hits = by_case > 0
    assert share_interval(np.repeat(hits, 25), cases) == pytest.approx(share_interval(hits, np.arange(40)))


def test_means_of_one_case_and_of_equal_values() -> None:
    assert mean_interval(np.ones(5), np.zeros(5, np.int64)) is None
    assert mean_interval(np.ones(9), np.arange(9)) == {"value": 1.0, "low": 1.0, "high": 1.0}
    rare = mean_interval(np.eye(1, 40)[0], np.arange(40))  # most redrawn ones do not even vary
    assert rare is not None
    assert np.isfinite([rare["low"], rare["high"]]).all()


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (10, 10), (50, 200)])
def test_shares_of_single_rows_have_the_interval_of_wilson(hits: int, trials: int) -> None:
    expected = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    found = share_interval(np.arange(trials) < hits, np.arange(trials))
    for ours in (wilson(hits / trials, trials), found):
        assert ours is not None
        assert (ours["low"], ours["high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_share_of_all_says_how_many_cases_it_rests_on() -> None:
    few, many = (share_interval(np.ones(60), np.arange(60) // rows) for rows in (12, 1))
    assert few is not None
    assert many is not None
    assert few["value"] == few["high"] == many["value"] == 1.0
    assert few["low"] == pytest.approx(stats.binomtest(5, 5).proportion_ci(method="wilson").low, abs=0.05)
    assert few["low"] < many["low"]
    assert share_interval(np.empty(0), np.empty(0, np.int64)) is None


def test_weights_count_rows_so_often() -> None:
    random = np.random.default_rng(3)
    hits, cases = random.random(30) < 0.6, np.arange(30) // 3
    times = random.integers(1, 4, 30)
    weighted = share_interval(hits, cases, times.astype(float))
    assert weighted == pytest.approx(share_interval(np.repeat(hits, times), np.repeat(cases, times)))


def test_a_fraction_spreads_as_its_redrawn_ones() -> None:
    redrawn = np.random.default_rng(4).normal(0.5, 0.05, 4000)
    found = fraction_interval(0.5, redrawn, 9)
    assert found is not None
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * 0.05, rel=0.05)
    assert fraction_interval(1.0, np.ones(100), 9) == wilson(1.0, 9)
    assert fraction_interval(float("nan"), redrawn, 9) is fraction_interval(0.5, np.full(9, np.nan), 9) is None


def test_a_correlation_has_the_interval_of_fisher() -> None:
    random = np.random.default_rng(5)
    a = random.normal(size=300)
    b = a + random.normal(size=300)
    redrawn = redraw(np.arange(300), lambda rows: float(np.corrcoef(a[rows], b[rows])[0, 1]))
    found = correlation_interval(float(np.corrcoef(a, b)[0, 1]), redrawn, 300)
    expected = stats.pearsonr(a, b).confidence_interval()
    assert found is not None
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert correlation_interval(0.5, np.empty(0), 1) is None


@pytest.mark.parametrize(("value", "within"), [(0.0, (0.0, 1.0)), (0.1, (0.0, 1.0)), (3.0, (1.0, 5.0))])
def test_a_mean_of_cases_that_are_alike_is_not_certain(value: float, within: tuple[float, float]) -> None:
    """A share of cases at the end of the range, of which none is among ten with a probability of 0.025."""
    found = mean_interval(np.full(30, value), np.repeat(np.arange(10), 3), within=within)
    assert found is not None
    for end, bound in zip((found["low"], found["high"]), within, strict=True):
        others = (end - value) / (bound - value) if bound != value else 1 - 0.025**0.1
        assert (1 - others) ** 10 == pytest.approx(0.025)
    assert mean_interval(np.full(30, value), np.arange(30)) == dict.fromkeys(found, found["value"])


@pytest.mark.parametrize("cases", [2, 10, 50])
def test_a_correlation_without_exception_is_not_certain(cases: int) -> None:
    """If all but a share of a population are perfectly correlated and these not at all, the correlation is the rest."""
    found = correlation_interval(1.0, np.ones(9), cases)
    assert found is not None
    assert (found["value"], found["high"]) == (1.0, 1.0)
    assert found["low"] ** cases == pytest.approx(0.025)  # so probable is it to see none of that share
    assert correlation_interval(-1.0, -np.ones(9), cases) == {"value": -1.0, "low": -1.0, "high": -found["low"]}


def test_an_interval_around_the_value_has_the_width_of_the_redrawn_ones() -> None:
    redrawn = np.random.default_rng(5).normal(9.0, 2.0, 4000)
    result = around(3.0, redrawn, 1000)  # their bias does not count
    assert result["low"] == pytest.approx(3 - 1.96 * 2, abs=0.15)
    assert result["high"] == pytest.approx(3 + 1.96 * 2, abs=0.15)
    assert around(3.0, redrawn, 1000, least=0.0)["low"] == 0.0
    assert around(3.0, np.empty(0), 9) == around(3.0, redrawn, 1) == {"value": 3.0, "low": None, "high": None}


def test_a_redrawn_sample_takes_whole_cases() -> None:
    cases = np.array([7, 3, 7, 3, 3])

    def whole(rows: np.ndarray) -> float:
        drawn, counts = np.unique(cases[rows], return_counts=True)
        return float(all(count % {7: 2, 3: 3}[case] == 0 for case, count in zip(drawn, counts, strict=True)))

    assert redraw(cases, whole, draws=20).tolist() == [1.0] * 20
    assert redraw(np.zeros(4, np.int64), whole).size == 0


def test_halves_of_a_sample_spread_as_whole_samples_do() -> None:
    """The standard error of a mean, and that of a median, which no formula of moments gives."""
    values = np.random.default_rng(6).normal(size=400)
    rows = list(half_samples(np.arange(400), 0, 2000))
    assert {len(half) for half in rows} == {200}
    assert np.std([values[half].mean() for half in rows]) == pytest.approx(values.std() / 20, rel=0.1)
    others = [np.median(np.random.default_rng(seed).normal(size=400)) for seed in range(2000)]
    assert np.std([np.median(values[half]) for half in rows]) == pytest.approx(np.std(others), rel=0.3)


def test_weights_of_halves_name_their_rows() -> None:
    cases = np.array([0, 1, 1, 2])
    counts = half_weights(cases, 7, 20)
    for row, half in zip(counts, half_samples(cases, 7, 20), strict=True):
        np.testing.assert_array_equal(np.flatnonzero(row), half)
    assert half_weights(np.zeros(4, int), 7, 20).shape == (0, 4)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=20), st.integers(0, 99))
def test_halves_share_no_case_and_cover_all(counts: list[int], seed: int) -> None:
    cases = np.repeat(np.arange(len(counts)), counts)
    left, right = halves(cases, np.random.default_rng(seed))
    assert sorted([*left, *right]) == list(range(len(cases)))
    assert not set(cases[left]) & set(cases[right])
    assert len(left) > 0
    assert len(right) > 0
    assert abs(len(left) - len(right)) <= 2 * max(counts)
