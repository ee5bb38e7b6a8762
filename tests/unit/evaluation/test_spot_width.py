"""The ruler against discs and phantoms of known size: it measures what it is told to, at any size and contrast."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medgen.evaluation.conditioning.spot_width import OUTSIDE_AIR, at_half_maximum, crossings, weighted_median

LUNG = -850.0


def disc(side: int, diameter: float, *, hu: float = 20.0, at: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """A disc in lung, of `diameter` and at `at` (x, y) as shares of the width, four samples a pixel each way."""
    y, x = (np.mgrid[: 4 * side, : 4 * side] + 0.5) / (4 * side)
    fine = np.where(np.hypot(x - at[0], y - at[1]) <= diameter / 2, hu, LUNG)
    return fine.reshape(side, 4, side, 4).mean(axis=(1, 3)).astype(np.float32)


def agreement(true: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Correlation, and slope of measured on true sizes."""
    return float(np.corrcoef(true, measured)[0, 1]), float(np.polyfit(true, measured, 1)[0])


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("blur", [0.0, 1.0])
@pytest.mark.parametrize("hu", [20.0, -600.0])
def test_discs_are_measured_exactly(side: int, blur: float, hu: float) -> None:
    sizes = np.linspace(0.08, 0.22, 12)
    random = np.random.default_rng(0)
    measured = []
    for size in sizes:
        x, y = random.uniform(0.45, 0.55, 2)
        image = ndimage.gaussian_filter(disc(side, size, hu=hu, at=(x, y)), blur)
        off = random.uniform(-1, 1, 2)  # spots lie on whole pixels, a little beside the middle
        found = at_half_maximum(image, y * side - 0.5 + off[0], x * side - 0.5 + off[1], 0.7 * size * side)
        measured.append(found.width / side)
        assert (found.column, found.row) == pytest.approx((x * side - 0.5, y * side - 0.5), abs=0.2)
    correlation, slope = agreement(sizes, np.array(measured))
    assert correlation > 0.995
    assert slope == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(measured, sizes, atol=0.5 / side)


def test_the_scale_of_a_spot_does_not_matter() -> None:
    image = disc(96, 0.15)
    widths = [at_half_maximum(image, 47.5, 47.5, scale).width for scale in (6.0, 10.0, 14.0, 18.0)]
    np.testing.assert_allclose(widths, 0.15 * 96, atol=0.5)


def test_an_ellipse_is_as_long_as_the_side_of_its_box() -> None:
    y, x = np.mgrid[:96, :96]
    image = np.where(((x - 48) / 12) ** 2 + ((y - 48) / 10) ** 2 <= 1, 20.0, LUNG).astype(np.float32)
    assert at_half_maximum(image, 48, 48, 18.0).width == pytest.approx(24, abs=1)


def test_a_vessel_and_a_wall_do_not_make_it_larger() -> None:
    image = disc(96, 0.15)
    alone = at_half_maximum(image, 47.5, 47.5, 12.0).width
    image[46:49, 48:] = 20.0
    assert at_half_maximum(image, 47.5, 47.5, 12.0).width == pytest.approx(alone, abs=1.0)
    image[:, 54:] = 20.0
    assert at_half_maximum(image, 47.5, 47.5, 12.0).width < 1.3 * alone


def test_a_solid_speck_in_ground_glass_is_not_all_of_it() -> None:
    image = disc(96, 0.2, hu=-520.0)
    image[47:50, 44:47] = 20.0
    assert at_half_maximum(image, 48, 45, 5.0).width == pytest.approx(0.2 * 96, rel=0.15)


def test_what_is_no_spot_has_the_width_of_its_scale() -> None:
    flat = np.full((64, 64), 20.0, np.float32)
    assert at_half_maximum(flat, 30, 30, 8.0).width == pytest.approx(8.0)
    assert at_half_maximum(np.full((64, 64), LUNG, np.float32), 30, 30, 8.0).width == pytest.approx(8.0)
    assert OUTSIDE_AIR < LUNG
    assert np.isinf(crossings(np.full((32, 9), 20.0), np.arange(9.0), -400.0)).all()


def test_a_median_by_weight() -> None:
    assert weighted_median(np.array([5.0, 1.0, 3.0]), np.array([1.0, 1.0, 1.0])) == 3.0
    assert weighted_median(np.array([5.0, 1.0, 3.0]), np.array([9.0, 1.0, 1.0])) == 5.0
