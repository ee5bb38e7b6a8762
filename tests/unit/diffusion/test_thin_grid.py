"""Where thin slices go, and how windows over depth join."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medgen.diffusion.slice_profile import profile_matrix
from medgen.diffusion.thin_grid import (
    blended,
    network_input,
    places,
    scales,
    spline_matrix,
    thin_positions,
    whole_rows,
    window_spline,
    window_starts,
    window_weights,
)


def test_whole_ratios_give_the_grid_that_the_thick_slices_were_averaged_from() -> None:
    thin = 7.3 + 1.25 * torch.arange(24, dtype=torch.float64)
    thick = thin.view(6, 4).mean(dim=1)
    torch.testing.assert_close(thin_positions(thick, 5.0, 1.25), thin)


def test_a_rounded_spacing_loses_no_slice() -> None:
    thick = 2.0 * torch.arange(8, dtype=torch.float64) + 1.0
    assert len(thin_positions(thick, 2.0, 0.6667)) == len(thin_positions(thick, 2.0, 0.6666)) == 24


def test_dropped_slices_come_back_at_their_places() -> None:
    thin = torch.arange(9, dtype=torch.float64) * 2.5
    torch.testing.assert_close(thin_positions(thin[::2], 2.5, 2.5), thin)


@given(count=st.integers(2, 60), step=st.floats(1.0, 12.0), part=st.floats(0.2, 1.6), ratio=st.floats(0.05, 0.98))
def test_the_thin_grid_fills_what_was_measured_and_no_more(count: int, step: float, part: float, ratio: float) -> None:
    thick = step * torch.arange(count, dtype=torch.float64)
    thickness, spacing = part * step, ratio * step
    thin = thin_positions(thick, thickness, spacing)
    reach = min(thickness, step) / 2
    low, high = float(thin[0]) - spacing / 2, float(thin[-1]) + spacing / 2
    assert low >= -reach - 0.01 * spacing
    assert high <= float(thick[-1]) + reach + 0.01 * spacing
    assert high - low > float(thick[-1]) + 2 * reach - spacing - 1e-6
    assert low + reach == pytest.approx(float(thick[-1]) + reach - high, abs=1e-6)


def test_places_tell_centres_gaps_and_ends() -> None:
    thick = torch.tensor([10.0, 20.0], dtype=torch.float64)
    thin = torch.tensor([4.0, 10.0, 12.0, 15.0, 20.0], dtype=torch.float64)
    near, measured = places(thin, thick, thickness=4.0, thin_thickness=2.0)
    torch.testing.assert_close(near, torch.tensor([0.0, 1.0, 0.6, 0.0, 1.0]))
    torch.testing.assert_close(measured, torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0]))


@pytest.mark.parametrize(("step", "thickness", "spacing"), [(5.0, 5.0, 1.0), (4.0, 4.0, 1.3), (6.0, 3.0, 1.0)])
def test_the_spline_gives_the_thick_slices_back(step: float, thickness: float, spacing: float) -> None:
    thick = step * torch.arange(9, dtype=torch.float64)
    thin = thin_positions(thick, thickness, spacing)
    again = profile_matrix(thick, thin, thickness, thin_thickness=spacing) @ spline_matrix(
        thin, thick, thickness, spacing
    )
    torch.testing.assert_close(again, torch.eye(9, dtype=torch.float64), atol=1e-4, rtol=0)


def test_a_windows_spline_is_that_of_the_whole_volume() -> None:
    thick = 5.0 * torch.arange(20, dtype=torch.float64)
    thin = thin_positions(thick, 5.0, 1.0)
    whole = spline_matrix(thin, thick, 5.0, 1.0)
    for first, near in ((0, slice(0, 8)), (45, slice(5, 17)), (84, slice(13, 20))):
        part = window_spline(thin[first : first + 16], thick[near], 5.0, 1.0)
        torch.testing.assert_close(part, whole[first : first + 16, near], atol=0.01, rtol=0)


def test_scales_are_told_in_mm() -> None:
    torch.testing.assert_close(scales(1.0, 4.0, 12.0), torch.tensor([0.2, 0.5, 0.75]))


def test_the_network_sees_noise_guess_and_places() -> None:
    noisy, guess = torch.ones(2, 3, 5, 4, 4), torch.full((2, 3, 5, 4, 4), 2.0)
    spots = torch.arange(20.0).view(2, 2, 5)
    seen = network_input(noisy, guess, spots)
    assert seen.shape == (2, 8, 5, 4, 4)
    assert (seen[:, :3] == 1).all()
    assert (seen[:, 3:6] == 2).all()
    torch.testing.assert_close(seen[:, 6:, :, 1, 2], spots)


@given(count=st.integers(1, 400), depth=st.integers(2, 64), data=st.data())
def test_windows_cover_every_slice_and_blend_to_one(count: int, depth: int, data: st.DataObject) -> None:
    depth = min(depth, count)
    overlap = data.draw(st.integers(0, depth // 2))
    starts = window_starts(count, depth, overlap)
    total = torch.zeros(count)
    for start in starts:
        assert 0 <= start <= count - depth
        total[start : start + depth] += window_weights(start, depth, count, overlap)
    assert (total > 0).all()
    for before, after in pairwise(starts):
        assert before < after <= before + depth - overlap
    alone = window_weights(0, depth, depth, overlap)
    assert (alone == 1).all()


def test_ramps_of_neighbours_cross_evenly() -> None:
    left = window_weights(0, 8, 12, 4)[4:]
    right = window_weights(4, 8, 12, 4)[:4]
    torch.testing.assert_close(left + right, torch.ones(4))
    assert (left.diff() < 0).all()


@given(count=st.integers(1, 60), depth=st.integers(1, 16), share=st.floats(0, 0.5), samples=st.integers(1, 2))
def test_windows_are_blended_as_they_come(count: int, depth: int, share: float, samples: int) -> None:
    """To the same sums, bit for bit, as over the whole volume, and not before the next window is there."""
    depth = min(depth, count)
    overlap = min(round(share * depth), depth - 1)
    starts = window_starts(count, depth, overlap)
    windows = torch.randn(len(starts), samples, depth, 1, 2, 2, generator=torch.Generator().manual_seed(count))
    total, weight = torch.zeros(samples, count, 1, 2, 2), torch.zeros(count, 1, 1, 1)
    for start, window in zip(starts, windows, strict=True):
        ramps = window_weights(start, depth, count, overlap)[:, None, None, None]
        total[:, start : start + depth] += ramps * window
        weight[start : start + depth] += ramps
    taken = 0

    def come() -> Iterator[tuple[int, torch.Tensor]]:
        nonlocal taken
        for pair in zip(starts, windows, strict=True):
            taken += 1
            yield pair

    parts, done = [], 0
    for part in blended(come(), count, overlap):
        parts.append(part)
        done += part.shape[1]
        assert done == (starts[taken - 1] if done < count else count)
    assert torch.equal(torch.cat(parts, dim=1), total / weight)


def test_rows_that_lie_wholly_in_a_window() -> None:
    thin = torch.arange(12, dtype=torch.float64) + 0.5
    matrix = profile_matrix([1.5, 4.5, 7.5, 10.5], thin, 3.0)
    assert whole_rows(matrix, 2, 9).tolist() == [1, 2]
    assert whole_rows(matrix, 4, 6).tolist() == []
