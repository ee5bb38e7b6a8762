from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.evaluation.conditioning.nodules import Spot, find_spots, is_close_up, lung_fields


def chest(
    side: int, nodules: Sequence[tuple[float, float, float]] = (), vessel: bool = False, hu: float = 20.0
) -> np.ndarray:
    """A body with two lungs, a heart and a spine, in HU; nodules as (x, y, size) over the width."""
    fine = 2 * side
    y, x = (np.mgrid[:fine, :fine] + 0.5) / fine

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1

    image = np.full((fine, fine), -1000.0)
    image[ellipse(0.5, 0.5, 0.45, 0.36)] = 30
    image[ellipse(0.28, 0.5, 0.15, 0.26)] = -850
    image[ellipse(0.72, 0.5, 0.15, 0.26)] = -850
    image[ellipse(0.56, 0.42, 0.13, 0.13)] = 60  # heart
    image[ellipse(0.5, 0.74, 0.05, 0.05)] = 600  # vertebra
    if vessel:
        image[(np.abs(y - 0.55 - (x - 0.25) * 0.3) < 0.012) & (np.abs(x - 0.27) < 0.1)] = 20
    for cx, cy, size in nodules:
        image[ellipse(cx, cy, size / 2, size / 2)] = hu
    image = ndimage.gaussian_filter(image, 1.0)
    return image.reshape(side, 2, side, 2).mean(axis=(1, 3)).astype(np.float32)


@pytest.mark.parametrize("side", [64, 96, 256])
def test_a_nodule_is_found_at_its_place_with_its_size(side: int) -> None:
    spot = find_spots(chest(side, [(0.3, 0.45, 0.1)]))[0]
    assert spot.x == pytest.approx(0.3, abs=0.01)
    assert spot.y == pytest.approx(0.45, abs=0.01)
    assert spot.size == pytest.approx(0.1, rel=0.25)
    assert spot.contrast == pytest.approx(850, rel=0.2)


@settings(max_examples=15)
@given(st.floats(0.23, 0.33), st.floats(0.38, 0.62), st.floats(0.06, 0.16))
def test_any_nodule_in_the_lung_is_the_first_spot(x: float, y: float, size: float) -> None:
    spot = find_spots(chest(64, [(x, y, size)]))[0]
    # A gap to the heart (which begins at 0.43) of less than two pixels blurs into the nodule and pulls its centre.
    free = x + size / 2 < 0.43 - 2 / 64
    assert np.hypot(spot.x - x, spot.y - y) < (0.02 if free else 2 / 64)
    assert spot.size == pytest.approx(size, rel=0.35)


def test_a_nodule_at_the_outer_wall_is_found() -> None:
    spot = find_spots(chest(96, [(0.155, 0.5, 0.08)]))[0]
    assert np.hypot(spot.x - 0.155, spot.y - 0.5) < 0.03


def test_heart_and_vertebra_are_no_spots_and_a_vessel_is_weaker_than_a_nodule() -> None:
    assert not [spot for spot in find_spots(chest(96)) if spot.contrast > 150 and not spot.medial]
    vessel = max((spot.contrast for spot in find_spots(chest(96, vessel=True))), default=0)
    nodule = find_spots(chest(96, [(0.3, 0.45, 0.06)]))[0].contrast
    assert vessel < 0.6 * nodule


def test_spots_come_by_falling_strength_and_lie_apart() -> None:
    spots = find_spots(chest(96, [(0.3, 0.4, 0.1), (0.72, 0.6, 0.1)], vessel=True))
    assert [round(spot.x, 1) for spot in spots[:2]] in ([0.3, 0.7], [0.7, 0.3])
    contrasts = [spot.contrast for spot in spots]
    assert contrasts == sorted(contrasts, reverse=True)


def test_a_faint_nodule_has_less_contrast() -> None:
    solid = find_spots(chest(96, [(0.3, 0.45, 0.1)]))[0]
    faint = next(spot for spot in find_spots(chest(96, [(0.3, 0.45, 0.1)], hu=-600.0)) if not spot.medial)
    assert np.hypot(faint.x - solid.x, faint.y - solid.y) < 0.01
    assert faint.contrast == pytest.approx(solid.contrast * 250 / 850, rel=0.15)


def test_blur_moves_nothing() -> None:
    blurred = ndimage.gaussian_filter(chest(64, [(0.3, 0.45, 0.12)]), 1.5)
    spot = find_spots(blurred)[0]
    assert np.hypot(spot.x - 0.3, spot.y - 0.45) < 0.02
    assert spot.size == pytest.approx(0.12, rel=0.5)


@pytest.mark.parametrize("value", [-1000.0, 0.0, 400.0])
def test_an_image_without_lungs_has_no_spots(value: float) -> None:
    assert find_spots(np.full((64, 64), value, np.float32)) == []


def test_noise_alone_does_not_fail() -> None:
    noise = np.random.default_rng(0).uniform(-1000, 400, (64, 64)).astype(np.float32)
    assert all(isinstance(spot, Spot) for spot in find_spots(noise))


def test_the_field_holds_both_lungs_but_not_heart_or_air_outside() -> None:
    hulls, field = lung_fields(chest(96))
    for row, column in ((48, 27), (48, 72)):
        assert field[row, column]
        assert hulls[row, column]
    assert not field[40, 50]
    assert not hulls[2, 2]
    assert not (field & ~hulls).any()
    assert field.mean() == pytest.approx(2 * np.pi * 0.15 * 0.26, rel=0.2)


def test_a_nodule_at_the_inner_wall_is_found_but_marked() -> None:
    at_the_wall = [spot for spot in find_spots(chest(96, [(0.4, 0.6, 0.09)])) if abs(spot.x - 0.4) < 0.03]
    assert at_the_wall
    assert at_the_wall[0].medial
    assert not find_spots(chest(96, [(0.3, 0.45, 0.1)]))[0].medial


def test_a_close_up_inside_the_chest_is_measured_without_lungs_to_find():
    """48 x 48 pixels of lung with a wall on one side and one nodule of 12 pixels."""
    rows, columns = np.mgrid[:48, :48]
    image = np.full((48, 48), -850.0, np.float32)
    image[:, 40:] = 40.0
    image[np.hypot(rows - 30, columns - 15) < 6] = 20.0
    assert is_close_up(image)
    best = find_spots(image)[0]
    assert (best.x, best.y) == pytest.approx((15.5 / 48, 30.5 / 48), abs=1 / 48)
    assert best.size == pytest.approx(12 / 48, rel=0.25)
    outside = np.where(np.hypot(rows - 24, columns - 24) < 20, 40.0, -1000.0).astype(np.float32)
    assert not is_close_up(outside)
    assert find_spots(outside) == []
