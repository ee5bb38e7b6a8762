"""Geometry: pixels and points go through the same map, millimetres stay millimetres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.errors import ConfigError
from medgen.imaging.geometry import PlaneMap, parse_size, plan_depth, plan_plane
from medgen.imaging.labels.annotations import NODULE_FIELDS, Finding, vector_of

sides = st.integers(24, 90)
pixels = st.floats(0.3, 2.0)


@settings(max_examples=60)
@given(sides, sides, pixels, pixels, sides, sides, st.booleans(), st.floats(0.35, 0.65), st.floats(0.35, 0.65))
def test_a_spot_stays_where_its_point_says(
    height: int, width: int, dy: float, dx: float, to_h: int, to_w: int, keep: bool, x: float, y: float
) -> None:
    plane = plan_plane((height, width), (dy, dx), size=(to_h, to_w), keep_aspect=keep, spacing=None)
    rows, columns = np.mgrid[:height, :width]
    distance = ((columns + 0.5 - x * width) / 3) ** 2 + ((rows + 0.5 - y * height) / 3) ** 2
    image = np.exp(-distance / 2).astype(np.float32)[:, :, None]
    result = plane.image(image, 0.0)[:, :, 0]
    assert result.shape == (to_h, to_w)
    rows, columns = np.mgrid[:to_h, :to_w]
    seen_x = float((result * (columns + 0.5)).sum() / result.sum()) / to_w
    seen_y = float((result * (rows + 0.5)).sum() / result.sum()) / to_h
    told_x, told_y = plane.centre(x, y)
    assert abs(seen_x - told_x) * to_w < 0.35
    assert abs(seen_y - told_y) * to_h < 0.35


@settings(max_examples=60)
@given(sides, sides, pixels, pixels, sides, sides)
def test_keeping_the_aspect_keeps_the_ratio_of_millimetres(
    height: int, width: int, dy: float, dx: float, to_h: int, to_w: int
) -> None:
    plane = plan_plane((height, width), (dy, dx), size=(to_h, to_w), keep_aspect=True, spacing=None)
    mm_y, mm_x = dy / plane.y.scale, dx / plane.x.scale  # size of a target pixel
    # counts are whole pixels: each may be half a pixel off
    tolerance = 0.5 / min(plane.y.count, plane.x.count) + 1e-9
    assert abs(mm_y / mm_x - 1) <= 2.2 * tolerance
    assert plane.y.count == to_h or plane.x.count == to_w


@settings(max_examples=60)
@given(sides, sides, pixels, st.floats(0.4, 2.0), st.one_of(st.none(), st.tuples(sides, sides)))
def test_spacing_is_met_exactly_and_about_the_middle(
    height: int, width: int, pixel: float, spacing: float, size: tuple[int, int] | None
) -> None:
    plane = plan_plane((height, width), (pixel, pixel), size=size, keep_aspect=True, spacing=spacing)
    for axis in (plane.y, plane.x):
        assert pixel / axis.scale == pytest.approx(spacing, rel=1e-9)
        assert 0.0 <= axis.start < axis.stop <= axis.source + 1e-9
        assert axis.point(axis.source / 2) == pytest.approx(axis.target / 2, abs=0.51)
    if size:
        assert (plane.y.target, plane.x.target) == size


@given(st.floats(-50, 150), sides, sides)
def test_points_come_back(coordinate: float, source: int, target: int) -> None:
    axis = plan_plane((source, source), (1, 1), size=(target, target + 7), keep_aspect=True, spacing=None).x
    assert axis.inverse(axis.point(coordinate)) == pytest.approx(coordinate, abs=1e-6)


def test_no_options_change_nothing() -> None:
    image = np.random.default_rng(0).random((9, 7, 1)).astype(np.float32)
    plane = plan_plane((9, 7), (0.7, 0.8), size=None, keep_aspect=True, spacing=None)
    assert plane.identity
    assert plane.image(image, 0.0) is image


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((64, 64, 1), np.float32)
    stripes[:, ::2] = 1.0
    small = plan_plane((64, 64), (1, 1), size=(16, 16), keep_aspect=True, spacing=None).image(stripes, 0.0)
    assert np.abs(small[2:-2, 2:-2] - 0.5).max() < 0.02


def test_padding_has_the_fill_value_and_a_mask_stays_binary() -> None:
    plane = plan_plane((20, 40), (1, 1), size=(32, 32), keep_aspect=True, spacing=None)
    image = plane.image(np.full((20, 40, 1), 5.0, np.float32), -1000.0)
    assert (image[:8] == -1000).all()
    assert (image[-8:] == -1000).all()
    assert np.allclose(image[8:24], 5.0)
    mask = np.zeros((20, 40), np.uint8)
    mask[5:15, 10:30] = 1
    small = plane.labels(mask)
    assert set(np.unique(small)) == {0, 1}
    assert small.sum() == pytest.approx(mask.sum() * plane.x.scale * plane.y.scale, rel=0.1)


@settings(max_examples=50)
@given(st.integers(0, 10), st.integers(0, 10), st.integers(4, 16), st.integers(4, 16), st.booleans())
def test_the_box_of_a_drawn_nodule_follows(left: int, top: int, width: int, height: int, keep: bool) -> None:
    source = np.zeros((32, 48), np.uint8)
    source[top : top + height, left : left + width] = 1
    finding = Finding(
        (1.0, (left + width / 2) / 48, (top + height / 2) / 32, max(width, height) / 48, 0.5, 0.25),
        (width / 48, height / 32),
    )
    plane = plan_plane((32, 48), (1.0, 1.0), size=(96, 96), keep_aspect=keep, spacing=None)
    _, x, y, size, malignancy, texture = vector_of(finding, NODULE_FIELDS, plane, "here")
    rows, columns = np.nonzero(plane.labels(source))
    assert x * 96 == pytest.approx((columns.min() + columns.max() + 1) / 2, abs=1.0)
    assert y * 96 == pytest.approx((rows.min() + rows.max() + 1) / 2, abs=1.0)
    assert size * 96 == pytest.approx(max(np.ptp(rows), np.ptp(columns)) + 1, abs=1.01)
    assert (malignancy, texture) == (0.5, 0.25)


def test_a_healthy_vector_stays_zero() -> None:
    plane = plan_plane((20, 40), (1, 1), size=(32, 32), keep_aspect=True, spacing=None)
    assert not vector_of(Finding((0.0,) * 6), NODULE_FIELDS, plane, "here").any()


@settings(max_examples=60)
@given(st.integers(2, 40), st.floats(0.5, 6.0), st.floats(0.5, 12.0), st.floats(-3, 3), st.floats(-2, 2))
def test_depth_keeps_what_is_linear(count: int, spacing: float, thickness: float, slope: float, level: float) -> None:
    offsets = np.arange(count) * spacing
    depth = plan_depth(offsets, spacing, thickness)
    assert np.allclose(depth.weights.sum(axis=1), 1.0)
    values = (level + slope * offsets).astype(np.float32)[:, None, None]
    result = depth.volume(values)[:, 0, 0]
    inner = (depth.targets > offsets[0] + thickness / 2) & (depth.targets < offsets[-1] - thickness / 2)
    expected = level + slope * depth.targets
    # the average over whole cells is exact for thick slices up to the cut cells at both ends
    slack = 1e-3 if thickness <= spacing else abs(slope) * spacing / 2 + 1e-3
    assert np.abs(result[inner] - expected[inner]).max(initial=0.0) <= slack
    assert np.allclose(np.diff(depth.targets), thickness)


def test_thick_slices_are_means_of_thin_ones() -> None:
    values = np.arange(10, dtype=np.float32)[:, None, None]
    depth = plan_depth(np.arange(10) * 1.0, 1.0, 5.0)
    assert depth.volume(values).ravel().tolist() == [2.0, 7.0]
    assert depth.targets.tolist() == [2.0, 7.0]


@pytest.mark.parametrize("text", ["x256", "0", "a", "256x", "99999"])
def test_a_wrong_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


def test_size_is_width_by_height() -> None:
    assert parse_size("256x192") == (192, 256)
    assert parse_size("64") == (64, 64)


@pytest.mark.parametrize(
    "plane",
    [
        plan_plane((96, 64), (1.0, 1.0), size=(192, 128), keep_aspect=True, spacing=None),
        plan_plane((96, 64), (1.0, 1.0), size=(50, 50), keep_aspect=True, spacing=None),
        plan_plane((96, 64), (1.0, 1.0), size=(70, 111), keep_aspect=False, spacing=None),
        plan_plane((96, 64), (0.8, 1.3), size=(60, 60), keep_aspect=True, spacing=1.0),
        plan_plane((96, 64), (0.8, 1.3), size=(40, 120), keep_aspect=True, spacing=0.7),
        plan_plane((96, 64), (1.0, 1.0), size=None, keep_aspect=True, spacing=1.37),
        plan_plane((96, 64), (1.0, 1.0), size=(80, 80), keep_aspect=True, spacing=None).shifted((3.4, -2.2)),
    ],
    ids=["up", "down", "stretched", "cropped", "cropped and padded", "spacing", "mended"],
)
def test_labels_lie_where_the_image_does_and_hold_no_new_class(plane: PlaneMap) -> None:
    """A checkerboard: where the resampled image is still pure, it says which square lies there."""
    rows, columns = np.mgrid[:96, :64] // 16
    classes = (1 + (rows * 3 + columns) % 7).astype(np.uint8)
    labels = plane.labels(classes)
    assert set(np.unique(labels)) <= {*range(8)}
    for number in range(1, 8):
        share = plane.image((classes == number).astype(np.float32)[:, :, None], 0.0)[:, :, 0]
        assert (labels[share > 0.999] == number).all()
        assert (labels[share < 0.001] != number).all()
    covered = plane.image(np.ones((96, 64, 1), np.float32), 0.0)[:, :, 0] > 0.5
    np.testing.assert_array_equal(labels > 0, covered)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_labels_of_any_size_are_those_of_the_nearest_pixels(
    h: int, w: int, height: int, width: int, keep: bool
) -> None:
    plane = plan_plane((h, w), (1.0, 1.0), size=(height, width), keep_aspect=keep, spacing=None)
    numbers = (np.arange(h * w) % 255 + 1).reshape(h, w).astype(np.uint8)
    labels = plane.labels(numbers)
    for row in range(height):
        for column in range(width):
            y, x = plane.y.inverse(row + 0.5), plane.x.inverse(column + 0.5)
            inside = 0 <= y < h and 0 <= x < w
            assert labels[row, column] == (numbers[int(y), int(x)] if inside else 0)
