"""Stored integers lose nothing that matters, and say what they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medgen.artifacts.schema import Intensity
from medgen.errors import ConfigError
from medgen.imaging.cases.intensity import parse_window, plan_encoding


def test_ct_is_whole_hu() -> None:
    encoding = plan_encoding("hu", "auto")
    assert (encoding.intensity.unit, encoding.intensity.window, encoding.dtype) == ("HU", (-1000.0, 400.0), "int16")
    values = np.array([-1024.4, -0.6, 3071.0, 1e6], np.float32)
    assert encoding.encode(values).tolist() == [-1024, -1, 3071, 32767]
    assert encoding.fill == -1000.0
    assert plan_encoding("hu", "soft-tissue").intensity.window == (-160.0, 240.0)
    assert plan_encoding("hu", "-50,150").intensity.window == (-50.0, 150.0)


def test_bytes_stay_bytes() -> None:
    encoding = plan_encoding("byte", "auto")
    values = np.arange(256, dtype=np.float32)
    assert encoding.dtype == "uint8"
    assert np.array_equal(encoding.encode(values), values)
    assert encoding.intensity.normalized(encoding.encode(values))[[0, -1]].tolist() == [-1.0, 1.0]
    assert encoding.fill == 0.0


def test_other_scales_are_taken_by_percentiles_of_the_case() -> None:
    encoding = plan_encoding("other", "auto")
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 300.0, (4, 1, 50, 50)).astype(np.float32)
    stored = encoding.encode(values)
    assert stored.dtype == np.int16
    relative = encoding.intensity.physical(stored)
    low, high = np.percentile(values, (0.5, 99.5))
    assert np.abs(relative - (values - low) / (high - low)).max() < 1e-4  # nothing clipped
    scaled = encoding.encode(values * 7 + 100)  # another gain and offset of the scanner
    assert np.abs(scaled.astype(int) - stored).max() <= 1


def test_padding_and_constant_images_do_not_break_percentiles() -> None:
    encoding = plan_encoding("other", "auto")
    assert np.isnan(encoding.fill)
    values = np.array([[np.nan, 10.0], [20.0, 30.0]], np.float32)
    assert encoding.encode(values)[0, 0] == 0
    assert encoding.encode(np.full((2, 2), 7.0, np.float32)).tolist() == [[0, 0], [0, 0]]


def test_a_window_in_numbers_keeps_integers_or_is_fine_enough() -> None:
    wide = plan_encoding("other", "0,4095")
    values = np.array([0, 17, 4095, 6000], np.float32)
    assert wide.encode(values).tolist() == [0, 17, 4095, 6000]
    narrow = plan_encoding("other", "0,0.5")
    small = np.array([0.0, 0.1234, 0.5], np.float32)
    assert np.abs(narrow.intensity.physical(narrow.encode(small)) - small).max() < 1e-4


def test_wrong_windows() -> None:
    with pytest.raises(ConfigError, match="the images are not CT"):
        plan_encoding("byte", "lung")
    with pytest.raises(ConfigError, match="did you mean 'lung'"):
        parse_window("lungs")
    for text in ("5,1", "1", "nan,3", "a,b"):
        with pytest.raises(ConfigError):
            parse_window(text)


def test_percentiles_of_each_case_can_be_chosen() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 50, 10_000).astype(np.float32)
    metal = values.copy()
    metal[:400] = 4000.0
    encoding = plan_encoding("other", "1%,90%")
    plain, filled = (encoding.intensity.normalized(encoding.encode(case)) for case in (values, metal))
    # Some metal hardly changes what the rest looks like; under the widest percentiles it darkens everything.
    np.testing.assert_allclose(filled[400:], plain[400:], atol=0.12)
    assert plain[np.argmin(np.abs(values - np.percentile(values, 90)))] == pytest.approx(1, abs=0.01)
    auto = plan_encoding("other", "auto")
    assert auto.intensity.normalized(auto.encode(metal))[400:].max() < -0.9
    assert plan_encoding("byte", "1%,90%").per_case
    for wrong in ("90%,1%", "1%", "a%,b%", "0%,101%"):
        with pytest.raises(ConfigError, match="percentiles"):
            plan_encoding("other", wrong)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_infinity_is_no_brightness(kind: type[np.floating[Any]]) -> None:
    """Clipped to the window it would pass for black or white, wherever images that are not finite are left out."""
    found = Intensity(window=(-1000.0, 400.0)).normalized(np.array([-np.inf, -1e4, -300, 1e4, np.inf, np.nan], kind))
    np.testing.assert_array_equal(found, np.array([np.nan, -1, 0, 1, np.nan, np.nan], np.float32))
