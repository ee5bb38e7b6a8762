from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medgen.evaluation.comparison import case_of, effect_size, holm, paired_test, sign_flip
from medgen.evaluation.section import Score


def scores(values: object, better: Literal["higher", "lower"] = "higher", prefix: str = "s") -> Score:
    return Score("score", better, {f"{prefix}{i}": float(v) for i, v in enumerate(np.asarray(values))})


@pytest.mark.parametrize("count", [6, 9, 13])
def test_few_cases_are_exchanged_in_every_way_as_scipy_does(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.4, 1, count)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=100_000, alternative="two-sided"
    ).pvalue
    assert sign_flip(differences, np.arange(count)) == pytest.approx(expected, abs=1e-12)


def test_many_cases_come_close_to_scipy() -> None:
    differences = np.random.default_rng(1).normal(0.25, 1, 60)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, alternative="two-sided", rng=0
    ).pvalue
    assert sign_flip(differences, np.arange(60)) == pytest.approx(expected, abs=0.01)
    assert sign_flip(differences, np.arange(60)) == sign_flip(differences, np.arange(60))
    assert sign_flip(np.full(60, 1.0), np.arange(60)) == pytest.approx(1 / 10_001)


def test_slices_of_a_case_are_exchanged_together() -> None:
    random = np.random.default_rng(2)
    cases = np.repeat(np.arange(10), 4)
    differences = np.repeat(random.normal(0, 1, 10), 4) + random.normal(0, 0.1, 40)
    sums = differences.reshape(10, 4).sum(1)
    assert sign_flip(differences, cases) == sign_flip(sums, np.arange(10))
    blind = sign_flip(differences, np.arange(40))  # as if 40 cases had been seen
    together = sign_flip(differences, cases)
    assert blind is not None
    assert together is not None
    assert blind < together


def test_too_few_cases_tell_nothing() -> None:
    assert sign_flip(np.ones(5), np.arange(5)) is None
    assert sign_flip(np.ones(6), np.arange(6)) == pytest.approx(2 / 64)


def test_under_no_difference_p_is_uniform() -> None:
    random = np.random.default_rng(3)
    p = [sign_flip(random.normal(0, 1, 10), np.arange(10)) for _ in range(300)]
    assert stats.kstest(np.array(p, np.float64), "uniform").pvalue > 0.01


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06], abs=1e-12)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    corrected = [p for p in holm(p_values) if p is not None]
    assert all(p <= q <= min(1, p * len(p_values)) for p, q in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def test_effect_is_the_mean_in_standard_deviations() -> None:
    differences = np.array([1.0, 2.0, 3.0, 4.0])
    assert effect_size(differences, np.arange(4)) == pytest.approx(2.5 / np.std(differences, ddof=1))
    assert effect_size(np.ones(4), np.arange(4)) is None
    assert effect_size(np.full(20, 0.1), np.arange(20)) is None  # their mean is not 0.1 to the last digit


def test_only_samples_of_both_are_compared() -> None:
    first = Score("PSNR", "higher", {f"s{i}": float(i) for i in range(12)} | {"only": 100.0, "bad": float("nan")})
    second = Score("PSNR", "higher", {f"s{i}": i + 1.0 for i in range(12)} | {"other": -9.0, "bad": 1.0})
    test = paired_test("reconstruction", "psnr", first, second)
    assert test is not None
    assert (test.samples, test.first, test.second, test.wins) == (12, 5.5, 6.5, 1.0)
    assert test.difference is not None
    assert test.difference["value"] == test.difference["low"] == test.difference["high"] == pytest.approx(1.0)
    assert paired_test("m", "s", scores([1], prefix="a"), scores([1], prefix="b")) is None


def test_lower_may_be_better() -> None:
    test = paired_test("m", "mse", scores([1, 2, 3], "lower"), scores([0, 2, 9], "lower"))
    assert test is not None
    assert test.wins == pytest.approx((1 + 0.5) / 3)


def test_slices_name_their_case() -> None:
    assert [case_of(key) for key in ("a", "a/3", "a/b", "a/b/0")] == ["a", "a", "a/b", "a/b"]
