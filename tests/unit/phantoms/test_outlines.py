"""Outlines: distances by closed form, windows that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.phantoms.outlines import Outline, smooth_line, window_of
from medgen.phantoms.primitives import enlarge


def grid(extent: float = 10.0, count: int = 81) -> tuple[np.ndarray, np.ndarray]:
    places = np.linspace(-extent, extent, count, dtype=np.float32)
    x, y = np.meshgrid(places, places)
    return x, y


def test_distance_to_a_square() -> None:
    x, y = grid()
    square = Outline(np.array([(-3.0, -3.0), (3.0, -3.0), (3.0, 3.0), (-3.0, 3.0)]))
    window, distance = square.distance(x, y)
    assert distance.shape == x.shape == x[window].shape
    outside = np.hypot(np.maximum(np.abs(x) - 3, 0), np.maximum(np.abs(y) - 3, 0))
    inside = np.maximum(np.abs(x), np.abs(y)) - 3
    np.testing.assert_allclose(distance, np.where(outside > 0, outside, inside), atol=1e-5)


def test_distance_to_a_line_has_no_inside() -> None:
    x, y = grid()
    _, distance = Outline(np.array([(-4.0, 0.0), (4.0, 0.0)]), closed=False).distance(x, y)
    np.testing.assert_allclose(distance, np.hypot(np.maximum(np.abs(x) - 4, 0), y), atol=1e-5)


@pytest.mark.parametrize("closed", [True, False])
def test_smooth_lines_go_through_their_points(closed: bool) -> None:
    points = np.array([(0.0, 0.0), (3.0, 1.0), (5.0, -2.0), (1.0, -4.0)])
    line = smooth_line(points, closed=closed)
    away = np.linalg.norm(line[:, None] - points[None], axis=2).min(axis=0)
    np.testing.assert_allclose(away, 0.0, atol=1e-12)
    assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() < 2.0


def test_a_mirrored_outline_has_mirrored_distances() -> None:
    x, y = grid()
    outline = Outline.smooth([(1, 1), (5, 2), (6, 6), (2, 4)])
    np.testing.assert_allclose(outline.mirrored().distance(x, y)[1], outline.distance(-x, y)[1], atol=1e-5)


@given(
    st.floats(-9, 9), st.floats(-9, 9), st.floats(0.5, 8), st.floats(0.5, 8), st.floats(-0.2, 0.2), st.integers(20, 90)
)
def test_a_window_holds_every_place_of_its_box(
    left: float, top: float, width: float, height: float, turn: float, count: int
) -> None:
    u, v = grid(10.0, count)
    x, y = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
    window = window_of(x, y, (left, left + width), (top, top + height))
    hit = (x >= left) & (x <= left + width) & (y >= top) & (y <= top + height)
    assert hit[window].sum() == hit.sum()


def test_enlarging_keeps_planes_and_corners() -> None:
    x, y = grid(10.0, 9)
    large = enlarge(2.0 * x - 3.0 * y, 33, 50)
    across, down = np.linspace(-10, 10, 50), np.linspace(-10, 10, 33)
    np.testing.assert_allclose(large, 2.0 * across[None] - 3.0 * down[:, None], atol=1e-4)
