from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.evaluation.intervals import around, bootstrap, bootstrap_mean, halves, multiplicities, resamples


def test_the_interval_of_a_mean_has_the_width_that_theory_gives() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    result = bootstrap_mean(values, np.arange(400), draws=4000)
    assert result is not None
    assert result["value"] == pytest.approx(values.mean())
    assert (result["high"] - result["low"]) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_slices_of_one_case_are_no_evidence_of_their_own() -> None:
    by_case = np.random.default_rng(2).normal(size=40)
    copies, cases = np.repeat(by_case, 25), np.repeat(np.arange(40), 25)
    once, repeated = bootstrap_mean(by_case, np.arange(40)), bootstrap_mean(copies, cases)
    assert repeated == pytest.approx(once)


def test_the_fast_mean_is_the_general_bootstrap_of_the_mean() -> None:
    random = np.random.default_rng(3)
    values, cases = random.normal(size=60), random.integers(0, 9, 60)
    slow = bootstrap(cases, lambda rows: float(values[rows].mean()), seed=4, draws=200)
    assert bootstrap_mean(values, cases, seed=4, draws=200) == pytest.approx(slow)


def test_one_case_has_no_interval_and_undefined_draws_stay_out() -> None:
    assert bootstrap_mean(np.ones(5), np.zeros(5, np.int64)) is None
    assert bootstrap(np.arange(4), lambda rows: float("nan")) is None
    varied = bootstrap(np.arange(4), lambda rows: float("inf") if 0 not in rows else 1.0)
    assert varied == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_a_resample_takes_whole_cases() -> None:
    cases = np.array([7, 3, 7, 3, 3])
    for rows in resamples(cases, 0, 20):
        drawn, counts = np.unique(cases[rows], return_counts=True)
        assert all(count % {7: 2, 3: 3}[case] == 0 for case, count in zip(drawn, counts, strict=True))


def test_an_interval_around_the_value_has_the_width_of_the_redrawn_ones() -> None:
    result = around(3.0, np.random.default_rng(5).normal(9.0, 2.0, 4000))  # their bias does not count
    assert result["low"] == pytest.approx(3 - 1.96 * 2, abs=0.15)
    assert result["high"] == pytest.approx(3 + 1.96 * 2, abs=0.15)
    assert around(3.0, np.empty(0)) == {"value": 3.0, "low": None, "high": None}


def test_multiplicities_count_the_rows_of_each_resample() -> None:
    cases = np.array([0, 1, 1, 2])
    counts = multiplicities(cases, 7, 20)
    for row, drawn in zip(counts, resamples(cases, 7, 20), strict=True):
        np.testing.assert_array_equal(row, [(drawn == index).sum() for index in range(4)])
    assert multiplicities(np.zeros(4, int), 7, 20).shape == (0, 4)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=20), st.integers(0, 99))
def test_halves_share_no_case_and_cover_all(counts: list[int], seed: int) -> None:
    cases = np.repeat(np.arange(len(counts)), counts)
    left, right = halves(cases, np.random.default_rng(seed))
    assert sorted([*left, *right]) == list(range(len(cases)))
    assert not set(cases[left]) & set(cases[right])
    assert len(left) > 0
    assert len(right) > 0
    assert abs(len(left) - len(right)) <= 2 * max(counts)
