"""New masks from real ones are whole, lie where masks may lie, and are a function of their numbers alone."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.config import convert, plain
from medgen.errors import ConfigError
from medgen.imaging.masks.warping import AREA, STILL, LabelMap, Warp, WarpRange, draw, warp_within, warped

SHAPE = (48, 64)
WILD = WarpRange(flip=True, scale=1.6, shift=0.4, turn=90.0, bend=0.03)


def ellipse(y: float, x: float, a: float, b: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.hypot((rows - y) / a, (columns - x) / b) < 1


def lesions(y: float, x: float, size: float) -> LabelMap:
    """Class 1 with class 2 within it, and a little of class 5 beside."""
    labels = ellipse(y, x, size, 1.3 * size).astype(np.uint8)
    labels[ellipse(y, x, size / 2, size / 2)] = 2
    labels[ellipse(y + 1.6 * size, x, size / 3, size / 3)] = 5
    return labels


masks = st.builds(lesions, st.floats(14, 24), st.floats(16, 48), st.floats(4, 9))


@given(masks, st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_no_class_is_lost_or_invented_and_nothing_touches_an_edge(labels: LabelMap, index: int) -> None:
    result, _ = warp_within(labels, draw(WILD, 0, index))
    before, after = (np.bincount(plane.reshape(-1), minlength=6) for plane in (labels, result))
    assert set(np.flatnonzero(after)) == set(np.flatnonzero(before))
    assert (after[1:] <= AREA[1] * before[1:]).all()
    assert (after[1:] >= AREA[0] * before[1:]).all()
    assert result.shape == SHAPE
    assert not any(edge.any() for edge in (result[0], result[-1], result[:, 0], result[:, -1]))


@given(masks, st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_nothing_leaves_the_foreground(labels: LabelMap, index: int) -> None:
    foreground = ellipse(24, 32, 21, 29)
    result, used = warp_within(labels, draw(WILD, 1, index), foreground)
    allowed = foreground | (labels > 0)
    assert not (result.astype(bool) & ~(allowed[:, ::-1] if used.flip else allowed)).any()


@given(masks, st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_the_numbers_alone_decide(labels: LabelMap, index: int) -> None:
    result, used = warp_within(labels, draw(WILD, 2, index))
    kept = msgspec.json.decode(msgspec.json.encode(used), type=Warp)
    np.testing.assert_array_equal(warped(labels, kept), result)
    assert draw(WILD, 2, index) == draw(WILD, 2, index)
    assert draw(WILD, 2, index) != draw(WILD, 3, index)


def test_what_the_foreground_cuts_off_is_cut_off_there_again() -> None:
    """As of a lesion that reaches out of an endoscope's field: its cut must not come to lie within the field."""
    field = ellipse(24, 32, 20, 20)
    labels = (ellipse(24, 14, 9, 9) & ellipse(24, 32, 19, 19)).astype(np.uint8)  # drawn nearly to the edge of the field
    rim = field & ~ndimage.binary_erosion(field)
    changed = 0
    for index in range(30):
        result, used = warp_within(labels, draw(WarpRange(flip=True), 9, index), field)
        assert not (result.astype(bool) & ~field).any()
        assert AREA[0] * labels.sum() <= result.sum() <= AREA[1] * labels.sum()
        assert (result.astype(bool) & rim).sum() > 8  # a lesion moved off would leave the rim
        assert ndimage.label(result)[1] == 1
        np.testing.assert_array_equal(warped(labels, used, field), result)
        changed += (result != labels).any()
    assert changed == 30


def centre(labels: LabelMap) -> np.ndarray:
    return np.mean(np.nonzero(labels), axis=1) + 0.5


def test_shift_scale_turn_and_flip_do_what_they_say() -> None:
    labels = ellipse(20, 24, 5, 10).astype(np.uint8)
    moved = warped(labels, Warp(False, 1.0, (0.125, -0.125), 0.0, STILL))
    np.testing.assert_array_equal(moved, np.roll(labels, (6, -8), (0, 1)))
    larger = warped(labels, Warp(False, 1.3, (0.0, 0.0), 0.0, STILL))
    assert larger.sum() == pytest.approx(1.69 * labels.sum(), rel=0.05)
    np.testing.assert_allclose(centre(larger), centre(labels), atol=0.3)
    upright = warped(labels, Warp(False, 1.0, (0.0, 0.0), 90.0, STILL))
    np.testing.assert_array_equal(upright[10:30, 14:34], np.rot90(labels[10:30, 14:34]))
    np.testing.assert_array_equal(warped(labels, Warp(True, 1.0, (0.0, 0.0), 0.0, STILL)), labels[:, ::-1])


def test_a_turn_is_counter_clockwise() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[19:21, 10:30], labels[19:21, 25:30] = 1, 2  # its end points to the right
    turned = warped(labels, Warp(False, 1.0, (0.0, 0.0), 45.0, STILL))
    y, x = centre(turned == 2)
    assert y < 17
    assert x > 23


def test_bending_folds_nothing() -> None:
    """Along each row and column the place that a pixel comes from rises, however the knots are drawn."""
    columns = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    for index in range(50):
        warp = msgspec.structs.replace(draw(WILD, 4, index), flip=False, scale=1.0, shift=(0.0, 0.0), turn=0.0)
        assert (np.diff(warped(columns, warp).astype(int), axis=1) >= 0).all()
        assert (np.diff(warped(columns.T, warp).astype(int), axis=0) >= 0).all()


def test_what_an_edge_cuts_off_stays_at_that_edge() -> None:
    labels = ellipse(24, 0, 8, 14).astype(np.uint8)
    changed = 0
    for index in range(20):
        result, _ = warp_within(labels, draw(WarpRange(), 5, index))
        assert result[:, 0].any()
        assert not any(edge.any() for edge in (result[0], result[-1], result[:, -1]))
        changed += (result != labels).any()
    assert changed == 20


def test_a_mask_that_cannot_be_changed_is_kept() -> None:
    full = np.ones(SHAPE, np.uint8)
    full[1:-1, 1:-1] = 0  # a frame: wherever it goes, an edge cuts it
    pixel = np.zeros(SHAPE, np.uint8)
    pixel[20, 20] = 3
    empty = np.zeros(SHAPE, np.uint8)
    for labels in (full, pixel, empty):
        for index in range(10):
            result, _ = warp_within(labels, draw(WarpRange(), 6, index))
            assert set(np.unique(result)) == set(np.unique(labels))
            assert (result > 0).sum() <= AREA[1] * (labels > 0).sum()


@given(st.integers(8, 40), st.integers(8, 56), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_least_lesion_is_moved_at_least(y: int, x: int, index: int) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[y, x], labels[y, x + 1] = 1, 2
    result, _ = warp_within(labels, msgspec.structs.replace(draw(WarpRange(), 7, index), shift=(0.1, -0.1)))
    assert np.bincount(result.reshape(-1), minlength=3)[1:].min() >= 1
    assert (result != labels).any()
    kept, _ = warp_within(labels, draw(WILD, 8, index), labels > 0)
    assert not (kept.astype(bool) & (labels == 0) & (labels[:, ::-1] == 0)).any()


@pytest.mark.parametrize("values", [{"scale": 0.0}, {"shift": 1.5}, {"turn": -1.0}, {"bend": 0.1}, {"elastic": 1}])
def test_impossible_ranges_are_refused(values: dict[str, float]) -> None:
    assert convert(WarpRange, plain(WarpRange()), "test") == WarpRange()
    with pytest.raises(ConfigError):
        convert(WarpRange, values, "test")
