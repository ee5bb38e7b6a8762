"""Distances, coverage, noise and tubes against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.phantoms.primitives import (
    FAR,
    Grid,
    LatticeNoise,
    Tubes,
    coverage,
    ellipsoid,
    smooth_max,
    smooth_min,
    superellipse,
)
from medgen.phantoms.vessel_tree import MURRAY, grow


def test_grid_is_centred_and_its_windows_hold_what_lies_in_the_box() -> None:
    grid = Grid(101, 0.5, 3.0, -7.0)
    assert grid.x[0, 50] == pytest.approx(3.0)
    assert grid.y[50, 0] == pytest.approx(-7.0)
    rows, columns = grid.window((0.9, 2.1), (-100.0, -30.9))
    assert grid.x[0, columns].tolist() == pytest.approx([1.0, 1.5, 2.0])
    assert grid.y[rows, 0].tolist() == pytest.approx([-32.0, -31.5, -31.0])
    outside = grid.window((500.0, 600.0), (0.0, 1.0))
    assert grid.x[0, outside[1]].size == 0


def test_refining_is_exact_for_linear_fields() -> None:
    grid = Grid(257, 0.7, 5.0, -3.0)
    coarse = grid.coarse
    assert coarse.size < grid.size
    fields = np.stack([2.0 * coarse.x - 3.0 * coarse.y + 1.0, coarse.x + 0.0 * coarse.y])
    fine = grid.refine(fields.astype(np.float32))
    np.testing.assert_allclose(fine[0], 2.0 * grid.x - 3.0 * grid.y + 1.0, atol=1e-3)
    np.testing.assert_allclose(fine[1], np.broadcast_to(grid.x, fine[1].shape), atol=1e-3)


@given(angle=st.floats(0, 6.28), scale=st.floats(0.2, 3.0), power=st.sampled_from([2.0, 2.5, 4.0]))
def test_superellipse_measures_along_the_ray(angle: float, scale: float, power: float) -> None:
    cos, sin = np.cos(angle), np.sin(angle)
    edge = (abs(cos / 30.0) ** power + abs(sin / 20.0) ** power) ** (-1.0 / power)
    assert superellipse(scale * edge * cos, scale * edge * sin, 30.0, 20.0, power) == pytest.approx(
        (scale - 1.0) * edge, abs=1e-6
    )


def test_ellipsoid_is_zero_on_its_surface_and_signed() -> None:
    assert ellipsoid(0.0, 0.0, 5.0, (3.0, 4.0, 5.0)) == pytest.approx(0.0)
    assert ellipsoid(0.0, 1.0, 1.0, (3.0, 4.0, 5.0)) < 0 < ellipsoid(3.0, 0.0, 3.0, (3.0, 4.0, 5.0))


def test_smooth_union_and_intersection_touch_the_sharp_ones_away_from_the_seam() -> None:
    a, b = np.array([-9.0, 0.0, 9.0]), np.array([9.0, 0.0, -9.0])
    np.testing.assert_allclose(smooth_max(a, b, 4.0), [9.0, 1.0, 9.0])
    np.testing.assert_allclose(smooth_min(a, b, 4.0), [-9.0, -1.0, -9.0])


@pytest.mark.parametrize("pixel", [0.5, 1.0, 3.0])
def test_coverage_keeps_the_area_of_a_disc(pixel: float) -> None:
    grid = Grid(round(80 / pixel), pixel, 0.3, -0.2)
    covered = coverage(superellipse(grid.x, grid.y, 20.0, 20.0).astype(np.float32), pixel)
    assert float(covered.sum()) * pixel**2 == pytest.approx(np.pi * 400.0, rel=0.01)


def brute_force(tubes: Tubes, z: float, grid: Grid) -> np.ndarray:
    """Distance to the nearest tapered segment, one segment and pixel at a time in float64."""
    points = np.stack(np.broadcast_arrays(grid.x, grid.y, np.float32(z)), axis=-1).astype(np.float64)
    best = np.full(points.shape[:2], np.inf)
    for a, b, r0, r1 in zip(tubes.start, tubes.end, tubes.radius_start, tubes.radius_end, strict=True):
        axis = (b - a).astype(np.float64)
        t = np.clip(((points - a) @ axis) / (axis @ axis), 0, 1)
        gap = np.linalg.norm(points - (a + t[..., None] * axis), axis=-1)
        best = np.minimum(best, gap - (r0 + t * (r1 - r0)))
    return best


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), pixel=st.sampled_from([0.7, 2.5]))
def test_tubes_measure_like_brute_force(seed: int, pixel: float) -> None:
    rng = np.random.default_rng(seed)
    grid = Grid(40, pixel)
    half = 22 * pixel  # some stick out of the grid
    tubes = Tubes.path(rng.uniform(-half, half, (6, 3)) * (1, 1, 0.3), rng.uniform(2.0, 5.0, 6))
    reach = 2.0
    window, distance = tubes.distance(1.5, grid, reach)
    whole = np.full((40, 40), FAR)
    whole[window] = distance
    expected = brute_force(tubes, 1.5, grid)
    near = expected < reach - 1e-3
    np.testing.assert_allclose(whole[near], expected[near], atol=2e-3)
    assert (whole[expected > reach + 1e-3] == FAR).all()


def test_tubes_that_miss_the_plane_leave_an_empty_window() -> None:
    window, distance = Tubes.path([(0, 0, 0), (5, 0, 0)], 1.0).distance(30.0, Grid(16, 1.0), 1.0)
    assert distance.size == 0
    assert np.zeros((16, 16))[window].size == 0


def test_coverage_of_a_thin_tube_falls_with_its_width() -> None:
    grid = Grid(33, 2.0)
    peaks = []
    for radius in (0.1, 0.2, 0.4):
        _, distance = Tubes.path([(-20, 0, 0), (20, 0, 0)], radius).distance(0.0, grid, 2.0)
        peaks.append(float(coverage(distance, 2.0).max()))
    assert peaks == pytest.approx([0.1, 0.2, 0.4], abs=0.01)


def test_flattened_tubes_are_taller_than_thick() -> None:
    tube = Tubes.path([(-20, 0, 0), (20, 0, 0)], 4.0, flatten=2.0)
    grid = Grid(9, 1.0)
    assert tube.distance(7.5, grid, 1.0)[1].min() < 0 < tube.distance(8.5, grid, 1.0)[1].min()


def test_noise_does_not_depend_on_the_grid_that_asks() -> None:
    noise = LatticeNoise(np.random.default_rng(0), 5.0, extent=100.0, depth=60.0)
    grid = Grid(65, 1.3, 2.0, -4.0)
    whole = noise.plane(7.7, grid.x, grid.y)
    part = noise.plane(7.7, grid.x[:, 10:20], grid.y[30:50])
    np.testing.assert_array_equal(part, whole[30:50, 10:20])
    assert np.abs(noise.plane(7.71, grid.x, grid.y) - whole).max() < 0.05  # continuous along z
    many = np.stack([noise.plane(z, grid.x, grid.y) for z in np.linspace(-30, 30, 40)])
    assert 0.7 < many.std() < 1.3


def test_tree_reaches_every_target_and_hangs_together() -> None:
    rng = np.random.default_rng(3)
    targets = rng.uniform(-50, 50, (90, 3))
    tree = grow(rng, (80.0, 0.0, 0.0), targets, 0.5)
    ends = {tuple(np.round(point, 2)) for point in tree.end}
    assert {tuple(np.round(point, 2)) for point in targets.astype(np.float32)} <= ends
    starts = {tuple(np.round(point, 2)) for point in tree.start}
    assert starts - ends == {(80.0, 0.0, 0.0)}  # every piece but the first begins where another ends
    assert tree.radius_start.max() == pytest.approx(0.5 * 90**MURRAY, rel=1e-3)
    assert (tree.radius_end <= tree.radius_start + 1e-6).all()
    assert tree.radius_end.min() == pytest.approx(0.55 * 0.5, rel=1e-3)
