from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.evaluation.features.features import Features
from medgen.evaluation.fidelity.neighbourhoods import neighbourhoods, of_parts

FIGURES = ("precision", "density", "recall", "coverage")


def features(count: int, width: int = 3, shift: float = 0.0, seed: int = 0, slices_a_case: int = 1) -> Features:
    values = torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift
    return Features(values, np.arange(count) // slices_a_case, np.arange(count))


def naive(samples: Features, real: Features, k: int) -> dict[str, list[float]]:
    """The definitions, a pair at a time."""

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.double() - b.double()).square().sum().sqrt())

    def reach(one: Features) -> list[float]:
        return [
            sorted(distance(one.values[i], one.values[j]) for j in range(len(one)) if one.cases[i] != one.cases[j])[
                k - 1
            ]
            for i in range(len(one))
        ]

    n, m = range(len(samples)), range(len(real))
    between = [[distance(samples.values[i], real.values[j]) for j in m] for i in n]
    of_samples, of_real = reach(samples), reach(real)
    return {
        "precision": [float(any(between[i][j] <= of_real[j] for j in m)) for i in n],
        "density": [sum(between[i][j] <= of_real[j] for j in m) / k for i in n],
        "recall": [float(any(between[i][j] <= of_samples[i] for i in n)) for j in m],
        "coverage": [float(any(between[i][j] <= of_real[j] for i in n)) for j in m],
        "nearest_real": [min(row) for row in between],
    }


@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(1, 3), st.floats(0, 2), st.integers(0, 99))
def test_agrees_with_the_definitions(k: int, depth: int, shift: float, seed: int) -> None:
    samples, real = features(11, shift=shift, seed=seed), features(12, seed=seed + 1, slices_a_case=depth)
    found = neighbourhoods(samples, real, k)
    assert found is not None
    for name, expected in naive(samples, real, k).items():
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-6, err_msg=name)


def test_disjoint_sets_share_nothing() -> None:
    found = neighbourhoods(features(30, shift=100.0), features(40, seed=1), 5)
    assert found is not None
    for name in FIGURES:
        assert not getattr(found, name).any()


def test_a_set_covers_itself() -> None:
    one = features(30)
    found = neighbourhoods(one, one, 5)
    assert found is not None
    for name in ("precision", "recall", "coverage"):
        assert getattr(found, name).all()
    np.testing.assert_array_equal(found.nearest_real, 0)


def test_equal_distributions_have_the_expected_density_and_coverage() -> None:
    """Naeem et al. 2020, eqs. 9 and 10: density is 1 on average, coverage 1 - (1/2)^k for as many samples as real."""
    density, coverage = [], []
    for seed in range(40):
        found = neighbourhoods(features(60, seed=seed), features(60, seed=seed + 100), 3)
        assert found is not None
        density.append(found.density.mean())
        coverage.append(found.coverage.mean())
    assert np.mean(density) == pytest.approx(1, abs=0.05)
    assert np.mean(coverage) == pytest.approx(1 - 0.5**3, abs=0.03)


def test_an_outlier_raises_precision_but_not_density() -> None:
    """One real outlier reaches far over all samples: the fault of precision that density mends."""
    real = features(40)
    real.values[0] = 50.0
    found = neighbourhoods(features(30, shift=20.0, seed=1), real, 5)
    assert found is not None
    assert found.precision.mean() == 1
    assert found.density.mean() == pytest.approx(1 / 5)


def test_slices_of_one_case_are_no_neighbours() -> None:
    real = features(12, slices_a_case=4)
    assert neighbourhoods(features(30, seed=1), real, 8) is not None
    assert neighbourhoods(features(30, seed=1), real, 9) is None


def test_blocks_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, real = features(20, shift=0.5), features(25, seed=1)
    whole = neighbourhoods(samples, real, 3)
    monkeypatch.setattr("medgen.evaluation.fidelity.neighbourhoods.ROWS", 6)
    parts = neighbourhoods(samples, real, 3)
    assert whole is not None
    assert parts is not None
    for name in FIGURES:
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_copies_lie_within_reach_whatever_the_order_of_sums() -> None:
    """A copy of the k-th neighbour lies at the very border of the reach: rounding must not push it out."""
    real = features(40, width=300, shift=5.0)
    for seed in range(5):
        order = torch.randperm(300, generator=torch.Generator().manual_seed(seed))
        shuffled = Features(real.values[:, order].contiguous(), real.cases, real.slices)
        found = neighbourhoods(shuffled, shuffled, 3)
        assert found is not None
        assert found.density.mean() == pytest.approx((40 * 4) / (40 * 3))  # each reaches itself and 3 others


def test_parts_have_the_figures_of_those_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgen.evaluation.fidelity.neighbourhoods.ROWS", 7)
    samples, real = features(30, shift=0.5, slices_a_case=2), features(36, seed=1, slices_a_case=3)
    parts = [(np.arange(30), np.arange(36)), (np.arange(4, 24), np.arange(0, 36, 2)), (np.arange(2), np.arange(36))]
    found = of_parts(samples, real, 3, parts)
    assert len(found) == 2  # an image of the last part has too few neighbours
    for one, (ours, theirs) in zip(found, parts, strict=False):
        alone = neighbourhoods(samples[ours], real[theirs], 3)
        assert alone is not None
        for name in (*FIGURES, "nearest_real"):
            np.testing.assert_allclose(getattr(one, name), getattr(alone, name), atol=1e-6, err_msg=name)
