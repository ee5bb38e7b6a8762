from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.evaluation.distances import distances, on_grid, step_of


def rows(count: int, width: int, seed: int, offset: float = 0.0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + offset


@settings(max_examples=25)
@given(st.integers(1, 700), st.floats(0, 100), st.integers(0, 99))
def test_the_order_of_sums_does_not_matter_at_all(width: int, offset: float, seed: int) -> None:
    """Another order of the columns is what another processor or another block would sum by."""
    x, y = on_grid(rows(40, width, seed, offset), rows(50, width, seed + 1, offset))
    whole = distances(x, y)
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(distances(x[:, order].contiguous(), y[:, order].contiguous()), whole)
    assert torch.equal(torch.cat([distances(x[start : start + 7], y) for start in range(0, 40, 7)]), whole)
    assert torch.equal(torch.cat([distances(x, y[start : start + 3]) for start in range(0, 50, 3)], dim=1), whole)


@settings(max_examples=15)
@given(st.integers(1, 700), st.floats(0, 100), st.integers(0, 99))
def test_distances_are_those_of_plain_differences(width: int, offset: float, seed: int) -> None:
    a, b = rows(20, width, seed, offset), rows(30, width, seed + 1, offset)
    found = distances(*on_grid(a, b))
    expected = (a.double()[:, None] - b.double()).square().sum(2).sqrt()
    np.testing.assert_allclose(found, expected, atol=8 * width**0.5 * step_of(1.0, width))


def test_equal_rows_are_nothing_apart_and_equal_distances_are_equal() -> None:
    a = rows(60, 468, 0, 3.0)
    x, y = on_grid(a, torch.cat([a.flip(0), a]))
    found = distances(x, y)
    assert torch.equal(found[:, 60:], found[:, :60].flip(1))
    assert torch.equal(found[:, 60:].diagonal(), torch.zeros(60, dtype=torch.float64))
    assert torch.equal(found[:, 60:], found[:, 60:].T)


def test_the_grid_bounds_every_partial_sum() -> None:
    for width in (1, 3, 468, 2048, 65536):
        steps = 1.0 / step_of(1.0, width)
        assert steps.is_integer()
        assert 4 * width * steps**2 <= 2.0**53
        assert 64 * width * steps**2 > 2.0**53  # no finer one would do, but for a digit


def test_one_huge_value_does_not_flatten_the_others() -> None:
    a = rows(20, 300, 0)
    a[0, 0] = 1e9
    found = distances(*on_grid(a, a))
    expected = (a.double()[1:, None] - a.double()[None, 1:]).square().sum(2).sqrt()
    np.testing.assert_allclose(found[1:, 1:], expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_rows_that_are_all_alike_are_no_failure(value: float) -> None:
    assert not distances(*on_grid(torch.full((3, 4), value), torch.full((2, 4), value))).any()
