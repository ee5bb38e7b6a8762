"""Thick slices are averages of thin ones at positions in mm; interpolation and consistency are their counterparts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline
from torch import Tensor

from medgen.diffusion.options import ProfileShape
from medgen.diffusion.slice_profile import (
    FWHM_IN_SIGMA,
    coverage,
    cubic_matrix,
    linear_matrix,
    profile_matrix,
    pseudo_inverse,
    resample,
)
from medgen.errors import DataError

SHAPES: tuple[ProfileShape, ...] = ("box", "gaussian")
shapes = st.sampled_from(SHAPES)


def grid(count: int, spacing: float, start: float = 0.0) -> Tensor:
    return start + spacing * torch.arange(count, dtype=torch.float64)


def test_an_integer_ratio_is_the_mean_of_the_slices_below() -> None:
    matrix = profile_matrix(grid(4, 5.0, 2.0), grid(20, 1.0), 5.0)
    volume = torch.randn(2, 1, 20, 3, 4, dtype=torch.float64)
    expected = volume.view(2, 1, 4, 5, 3, 4).mean(dim=3)
    torch.testing.assert_close(resample(volume, matrix), expected)


def test_a_box_weighs_by_overlap_at_any_ratio() -> None:
    row = profile_matrix([1.0], grid(5, 1.0), 2.5)[0]  # covers -0.25 to 2.25: 0.75 of slices 0 and 2, all of 1
    torch.testing.assert_close(row, torch.tensor([0.75, 1.0, 0.75, 0.0, 0.0], dtype=torch.float64) / 2.5)


def test_slices_in_a_gap_are_not_measured_and_overlaps_are_measured_twice() -> None:
    gapped = profile_matrix(grid(3, 6.0, 1.0), grid(18, 1.0), 3.0)
    assert (gapped.sum(0) == 0).nonzero()[:, 0].tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17]
    overlapping = profile_matrix(grid(3, 2.0, 2.0), grid(9, 1.0), 4.0)
    torch.testing.assert_close(overlapping.sum(0)[3:6], torch.full((3,), 0.5, dtype=torch.float64))


def test_a_gaussian_has_its_full_width_at_half_maximum() -> None:
    positions = grid(2001, 0.01, -10.0)
    row = profile_matrix([0.0], positions, 5.0, "gaussian")[0]
    above = positions[row >= row.max() / 2]
    assert float(above[-1] - above[0]) == pytest.approx(5.0, abs=0.02)
    deviation = math.sqrt(float((row * positions**2).sum()))
    assert deviation == pytest.approx(5.0 / FWHM_IN_SIGMA, rel=0.005)  # its cut tails hold 0.4 % of it


def test_what_hangs_over_the_end_is_left_out_and_told() -> None:
    thin, thick = grid(10, 1.0), [0.0, 5.0, 9.0, 11.5]
    matrix = profile_matrix(thick, thin, 5.0)
    torch.testing.assert_close(matrix[0, :4], torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64) / 3)
    torch.testing.assert_close(
        coverage(thick, thin, 5.0), torch.tensor([0.6, 1.0, 0.6, 0.1], dtype=torch.float64)
    )  # thin slices end at 9.5 mm
    with pytest.raises(DataError, match=r"thick slice 1 at 20 mm: no thin slice lies within its 5 mm"):
        profile_matrix([4.0, 20.0], thin, 5.0)


@pytest.mark.parametrize(("thick", "thin"), [([3.0, 1.0], [0.0, 1.0]), ([1.0], [1.0, 1.0]), ([], [0.0])])
def test_positions_must_rise(thick: list[float], thin: list[float]) -> None:
    with pytest.raises(DataError, match="positions"):
        profile_matrix(thick, thin, 2.0)


@given(
    ratio=st.floats(1.0, 8.0),
    overlap=st.floats(0.4, 1.6),
    shift=st.floats(-0.5, 0.5),
    thin_spacing=st.floats(0.3, 3.0),
    shape=shapes,
)
@settings(max_examples=80)
def test_rows_are_averages_about_the_slice(
    ratio: float, overlap: float, shift: float, thin_spacing: float, shape: ProfileShape
) -> None:
    spacing = ratio * thin_spacing
    thick = grid(5, spacing, 3 * spacing + shift)
    thin = grid(math.ceil(10 * ratio), thin_spacing)
    matrix = profile_matrix(thick, thin, overlap * spacing, shape)
    assert matrix.min() >= 0
    torch.testing.assert_close(matrix.sum(1), torch.ones(5, dtype=torch.float64))
    centres = matrix @ thin  # a ramp is averaged to its value at the centre, as the thin slices resolve it
    assert (centres - thick).abs().max() <= 0.5 * thin_spacing + 1e-9
    volume = torch.full((1, 1, len(thin), 1, 1), 7.5, dtype=torch.float64)
    torch.testing.assert_close(resample(volume, matrix), torch.full((1, 1, 5, 1, 1), 7.5, dtype=torch.float64))


def make_consistent(x: Tensor, y: Tensor, matrix: Tensor, inverse: Tensor) -> Tensor:
    """The volume nearest to x whose measurement is y: x + A^+ (y - A x) (Wang et al. 2023, eq. 8)."""
    return x + resample(y - resample(x, matrix), inverse)


@given(ratio=st.floats(1.0, 8.0), thickness=st.floats(0.5, 1.4), shape=shapes, seed=st.integers(0, 99))
@settings(max_examples=60)
def test_consistency_reproduces_the_measurement_with_the_least_change(
    ratio: float, thickness: float, shape: ProfileShape, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    thin = grid(math.ceil(8 * ratio) + 2, 1.0)
    matrix = profile_matrix(grid(6, ratio, ratio), thin, max(1.0, thickness * ratio), shape)
    inverse = pseudo_inverse(matrix, ridge=0.0, tolerance=0.0)
    x = torch.randn(1, 2, len(thin), 2, 2, dtype=torch.float64, generator=generator)
    y = torch.randn(1, 2, 6, 2, 2, dtype=torch.float64, generator=generator)
    corrected = make_consistent(x, y, matrix, inverse)
    torch.testing.assert_close(resample(corrected, matrix), y, rtol=0, atol=1e-8)
    torch.testing.assert_close(make_consistent(corrected, y, matrix, inverse), corrected, rtol=0, atol=1e-8)
    torch.testing.assert_close(matrix @ inverse, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(inverse, torch.linalg.pinv(matrix), rtol=0, atol=1e-7)  # so the change is the least


def test_the_default_ridge_costs_next_to_nothing_where_slices_do_not_overlap() -> None:
    matrix = profile_matrix(grid(20, 4.3, 2.0), grid(90, 1.0), 4.3)
    assert (matrix @ pseudo_inverse(matrix) - torch.eye(20, dtype=torch.float64)).abs().max() < 1e-5


def test_the_ridge_bounds_the_change_where_the_system_is_nearly_singular() -> None:
    matrix = profile_matrix(grid(60, 1.0, 3.0), grid(66, 1.0), 6.0)  # each slice is measured six times
    y = torch.randn(60, 1, 1, dtype=torch.float64)
    x = torch.zeros(66, 1, 1, dtype=torch.float64)
    wild = make_consistent(x, y, matrix, pseudo_inverse(matrix, ridge=0.0)).abs().max()
    tamed = make_consistent(x, y, matrix, pseudo_inverse(matrix, ridge=1e-2)).abs().max()
    assert tamed < 0.5 * wild


@pytest.mark.parametrize(("shape", "margin"), [("box", 25), ("gaussian", 55)])
def test_a_window_with_a_margin_is_corrected_as_the_whole_is(shape: ProfileShape, margin: int) -> None:
    """The influence of a slice falls off exponentially, the slower the more neighbouring profiles overlap."""
    thick, thin = grid(60, 4.3, 2.0), grid(258, 1.0)
    matrix = profile_matrix(thick, thin, 4.8, shape)
    x, y = torch.randn(258, 2, 2, dtype=torch.float64), torch.randn(60, 2, 2, dtype=torch.float64)
    whole = make_consistent(x, y, matrix, pseudo_inverse(matrix))
    window = slice(60, 200)
    kept = coverage(thick, thin[window], 4.8, shape) > 1 - 1e-6
    part = profile_matrix(thick[kept], thin[window], 4.8, shape)
    corrected = make_consistent(x[window], y[kept], part, pseudo_inverse(part))
    inner = slice(margin, 140 - margin)
    torch.testing.assert_close(corrected[inner], whole[60 + margin : 200 - margin], rtol=0, atol=1e-4)
    assert (corrected - whole[window]).abs().max() > 1e-2  # without the margin it would differ


def test_only_the_neighbourhood_of_a_slice_takes_part_in_its_correction() -> None:
    matrix = profile_matrix(grid(200, 4.3, 2.0), grid(860, 1.0), 4.3)
    inverse = pseudo_inverse(matrix)
    reach = [int((row != 0).nonzero()[-1] - (row != 0).nonzero()[0]) for row in inverse[100:760]]
    assert max(reach) < 40


@given(
    gaps=st.lists(st.floats(0.5, 6.0), min_size=1, max_size=9),
    places=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12),
)
@settings(max_examples=60)
def test_splines_are_those_of_scipy(gaps: list[float], places: list[float]) -> None:
    knots = np.cumsum([0.0, *gaps])
    targets = np.array(places) * knots[-1]
    values = np.random.default_rng(0).normal(size=(len(knots), 3))
    cubic = cubic_matrix(torch.tensor(targets), torch.tensor(knots)).numpy() @ values
    kind = "natural" if len(knots) > 2 else "not-a-knot"  # a line
    np.testing.assert_allclose(cubic, CubicSpline(knots, values, bc_type=kind)(targets), atol=1e-9)
    linear = linear_matrix(torch.tensor(targets), torch.tensor(knots)).numpy() @ values
    expected = np.stack([np.interp(targets, knots, column) for column in values.T], axis=1)
    np.testing.assert_allclose(linear, expected, atol=1e-12)


@pytest.mark.parametrize("of", [linear_matrix, cubic_matrix])
def test_interpolation_keeps_constants_ramps_and_the_measured_slices(of: object) -> None:
    thick, thin = grid(6, 3.7, 1.0), grid(40, 0.5, -1.0)
    matrix = of(thin, thick)  # type: ignore[operator]
    torch.testing.assert_close(matrix.sum(1), torch.ones(40, dtype=torch.float64))
    held = thin.clamp(1.0, float(thick[-1]))
    torch.testing.assert_close(matrix @ (2.0 * thick - 3.0), 2.0 * held - 3.0)
    torch.testing.assert_close(of(thick, thick), torch.eye(6, dtype=torch.float64))  # type: ignore[operator]
    torch.testing.assert_close(of(thin, [4.0]), torch.ones(40, 1, dtype=torch.float64))  # type: ignore[operator]


@pytest.mark.parametrize("dim", [0, 1, 2, -3])
def test_any_axis_can_be_the_slices(dim: int) -> None:
    matrix = torch.randn(70, 5, dtype=torch.float64)
    matrix[40:60] = 0
    volume = torch.randn(5, 5, 5, dtype=torch.float32)
    expected = torch.einsum("kn,n...->k...", matrix.float(), volume.movedim(dim, 0)).movedim(0, dim)
    torch.testing.assert_close(resample(volume, matrix, dim), expected)
    with pytest.raises(DataError, match="volume has 5 slices, its positions are 4"):
        resample(volume, matrix[:, :4], dim)
