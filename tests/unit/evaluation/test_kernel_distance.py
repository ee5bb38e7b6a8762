from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.evaluation.features.features import Features
from medgen.evaluation.fidelity.kernel_distance import kernel_distance, subset_distances, weighted_distances


def features(count: int, width: int = 8, shift: float = 0.0, seed: int = 0, slices_a_case: int = 1) -> Features:
    values = torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift
    return Features(values, np.arange(count) // slices_a_case, np.arange(count))


def naive(x: Features, y: Features, weights_x: np.ndarray, weights_y: np.ndarray) -> float:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.double() @ b.double() / len(a) + 1) ** 3)

    def mean(a: Features, b: Features, wa: np.ndarray, wb: np.ndarray, *, within: bool) -> float:
        total = weight = 0.0
        for i in range(len(a)):
            for j in range(len(b)):
                if not within or a.cases[i] != b.cases[j]:
                    total += wa[i] * wb[j] * kernel(a.values[i], b.values[j])
                    weight += wa[i] * wb[j]
        return total / weight

    own = mean(x, x, weights_x, weights_x, within=True) + mean(y, y, weights_y, weights_y, within=True)
    return own - 2 * mean(x, y, weights_x, weights_y, within=False)


def test_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = features(60), features(60, shift=0.3, seed=1)
    expected = float(poly_mmd(x.values.double(), y.values.double()))
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=10)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_agrees_with_the_sum_over_pairs_of_different_cases(depth: int, other_depth: int, seed: int) -> None:
    x, y = features(8, 3, seed=seed, slices_a_case=depth), features(9, 3, 0.5, seed + 1, other_depth)
    random = np.random.default_rng(seed)
    weights = [random.integers(0, 3, (2, len(one))).astype(float) for one in (x, y)]
    keep = [
        len(np.unique(x.cases[a > 0])) > 1 and len(np.unique(y.cases[b > 0])) > 1 for a, b in zip(*weights, strict=True)
    ]
    found = weighted_distances(x, y, *weights)
    for row in np.flatnonzero(keep):
        assert found[row] == pytest.approx(naive(x, y, weights[0][row], weights[1][row]), rel=1e-9, abs=1e-9)


def test_equal_distributions_have_distance_zero_on_average() -> None:
    values = [kernel_distance(features(40, seed=seed), features(40, seed=seed + 1000)) for seed in range(200)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error  # unbiased
    assert min(values) < 0
    assert np.mean(values) < 0.02 < kernel_distance(features(40), features(40, shift=0.5, seed=1))


def test_a_shift_has_the_distance_of_the_closed_form() -> None:
    """Of points x = 0 and y = c the kernel is 1 within x, (c^2 + 1)^3 within y and 1 between them."""
    x = Features(torch.zeros(5, 1), np.arange(5), np.arange(5))
    y = Features(torch.full((7, 1), 2.0), np.arange(7), np.arange(7))
    assert kernel_distance(x, y) == pytest.approx(1 + 5**3 - 2)


def test_slices_of_a_case_do_not_make_sets_seem_different() -> None:
    """Twenty patients of 10 like slices a side: all pairs taken, the distance is far from 0."""

    def patients(seed: int) -> Features:
        once = features(20, seed=seed)
        cases = np.repeat(np.arange(20), 10)
        return Features(once.values.repeat_interleave(10, 0), cases, np.arange(200))

    distances = [kernel_distance(patients(seed), patients(seed + 500)) for seed in range(30)]
    as_if_independent = [
        kernel_distance(
            *(Features(one.values, np.arange(200), np.arange(200)) for one in (patients(s), patients(s + 500)))
        )
        for s in range(30)
    ]
    assert abs(np.mean(distances)) < 0.1
    assert np.mean(as_if_independent) > 0.2


def test_subsets_spread_around_the_whole() -> None:
    x, y = features(200), features(150, shift=0.3, seed=1)
    subsets = subset_distances(x, y, 200, 50, np.random.default_rng(0))
    assert subsets.shape == (200,)
    assert subsets.mean() == pytest.approx(kernel_distance(x, y), abs=4 * subsets.std() / np.sqrt(200) + 0.01)
    assert subsets.std() > 0


def test_blocks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(50), features(40, shift=0.3, seed=1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("medgen.evaluation.fidelity.kernel_distance.ROWS", 7)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)
