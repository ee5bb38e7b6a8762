"""Maps against closed forms, pairs read side by side, and calibration against maps of known mean and spread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.errors import ConfigError, DataError
from medgen.inference.anomaly.calibration import Calibration, Place, calibrate
from medgen.inference.anomaly.maps import (
    difference_maps,
    foreground,
    map_cases,
    map_header,
    normal_maps,
    pairs,
    places_of,
    score,
)
from medgen.inference.anomaly.options import AnomalyOptions, CalibrationOptions

UNIT = Intensity(unit="", window=(-1.0, 1.0))
rows, columns = np.mgrid[0:12, 0:16].astype(np.float32)


def case_of(name: str, image: np.ndarray, **more: Any) -> Case:
    return Case(name, {"image": image.astype(np.float32), **more})


def test_a_ramp_has_a_gradient_and_no_laplacian() -> None:
    x = (0.03 * columns + 0.04 * rows)[None, None]
    maps = difference_maps(x, np.zeros_like(x), AnomalyOptions())
    pixel, gradient, laplacian, total = maps[0]
    np.testing.assert_allclose(pixel, x[0, 0], atol=1e-6)
    np.testing.assert_allclose(gradient, 0.05, atol=1e-6)  # the norm of (0.04, 0.03)
    np.testing.assert_allclose(laplacian[1:-1, 1:-1], 0, atol=1e-6)
    np.testing.assert_allclose(total, pixel + 0.5 * gradient + 0.3 * laplacian, atol=1e-6)


def test_a_single_pixel_has_the_stencils() -> None:
    x = np.zeros((1, 1, 9, 9), np.float32)
    x[0, 0, 4, 4] = -1.0
    pixel, gradient, laplacian, total = difference_maps(x, np.zeros_like(x), AnomalyOptions(pixel=2.0, laplacian=0.0))[
        0
    ]
    assert pixel[4, 4] == 1.0
    assert gradient[4, 4] == 0.0
    assert gradient[3, 4] == gradient[4, 5] == 0.5
    assert laplacian[4, 4] == 4.0
    assert laplacian[3, 4] == 1.0
    assert (pixel.sum(), laplacian.sum()) == (1.0, 8.0)
    np.testing.assert_allclose(total, 2 * pixel + 0.5 * gradient)


@given(arrays(np.float32, (2, 1, 6, 7), elements=st.floats(-1, 1, width=32)))
def test_maps_depend_on_the_difference_alone_and_vanish_without_one(x: np.ndarray) -> None:
    options = AnomalyOptions()
    assert not difference_maps(x, x, options).any()
    np.testing.assert_allclose(
        difference_maps(x, np.zeros_like(x), options), difference_maps(np.zeros_like(x), x, options), atol=1e-6
    )
    mirrored = difference_maps(x[..., ::-1], np.zeros_like(x), options)
    np.testing.assert_allclose(difference_maps(x, np.zeros_like(x), options), mirrored[..., ::-1], atol=1e-6)


def test_colour_is_averaged_and_smoothing_keeps_the_sum() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 1, 20, 20)).astype(np.float32)
    colour = np.repeat(x, 3, axis=1)
    plain = difference_maps(x, np.zeros_like(x), AnomalyOptions())
    np.testing.assert_allclose(difference_maps(colour, np.zeros_like(colour), AnomalyOptions()), plain, atol=1e-6)
    smooth = difference_maps(x, np.zeros_like(x), AnomalyOptions(smoothing=1.5))
    np.testing.assert_allclose(smooth.sum((2, 3)), plain.sum((2, 3)), rtol=1e-4)
    assert smooth[0, 0].std() < 0.5 * plain[0, 0].std()


def test_blurring_beforehand_is_the_difference_of_blurred_images() -> None:
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 2, 1, 20, 20)).astype(np.float32)
    blurred = [ndimage.gaussian_filter(image, (0, 0, 1.5, 1.5)) for image in (x, g)]
    expected = difference_maps(blurred[0], blurred[1], AnomalyOptions())
    np.testing.assert_allclose(difference_maps(x, g, AnomalyOptions(blur=1.5)), expected, atol=1e-5)
    assert AnomalyOptions(blur=1.5).note() != AnomalyOptions().note()


def test_background_is_left_out_and_holes_are_not() -> None:
    x = np.full((1, 1, 20, 20), -1.0, np.float32)
    x[0, 0, 4:16, 4:16] = 0.2
    x[0, 0, 8:11, 8:11] = -1.0  # a dark lesion inside
    x[0, 0, 1, 1] = 0.9  # a speck outside
    inside = foreground(x, 0.1)[0, 0]
    assert inside[4:16, 4:16].all()
    assert inside.sum() == 144
    assert foreground(x, None).all()
    made = list(map_cases([(case_of("a", x), case_of("a", 0 * x))], UNIT, AnomalyOptions(foreground=0.1), None))
    assert not made[0]["map"][0, :, ~inside].any()
    assert made[0]["map"][0, 0, 9, 9] == 1.0


def test_scores_are_what_they_say() -> None:
    values = np.arange(200, dtype=np.float32)
    assert score(values, AnomalyOptions()) == 198.5  # the mean of the highest two
    assert score(values, AnomalyOptions(score="quantile", score_share=0.1)) == 180.0
    assert score(values, AnomalyOptions(score="mean")) == 99.5
    assert score(values[:3], AnomalyOptions(score_share=0.01)) == 2.0
    assert score(values[:0], AnomalyOptions()) == 0.0
    with pytest.raises(ConfigError, match="all 0"):
        AnomalyOptions(pixel=0.0, gradient=0.0, laplacian=0.0)


def test_pairs_are_read_once_in_order_and_to_the_end() -> None:
    read: list[str] = []

    def stream(names: str) -> Iterator[Case]:
        for name in names:
            read.append(name)
            yield case_of(name, np.zeros((1, 1, 4, 4)))

    made = [case_of(name, np.zeros((1, 1, 4, 4))) for name in "bd"]
    assert [(a.id, b.id) for a, b in pairs(stream("abcde"), made)] == [("b", "b"), ("d", "d")]
    assert read == list("abcde")
    with pytest.raises(DataError, match=r"case b of the normalized set is not .* or is there in another order"):
        list(pairs(stream("abcd"), made[::-1]))
    with pytest.raises(
        DataError, match=r"case b: the image has shape \(1, 1, 4, 4\), its normal version \(1, 1, 4, 8\)"
    ):
        list(pairs(stream("ab"), [case_of("b", np.zeros((1, 1, 4, 8)))]))


def test_maps_carry_both_images_and_all_else() -> None:
    rng = np.random.default_rng(0)
    image, version = rng.uniform(-1, 1, (2, 2, 1, 8, 8)).astype(np.float32)
    original = case_of("a", image, mask=np.ones((2, 1, 8, 8), np.uint8), label=np.array([0, 1]))
    (made,) = map_cases([(original, case_of("a", version))], UNIT, AnomalyOptions(), None)
    made.check()
    assert made["map"].shape == (2, 4, 8, 8)
    assert (made["map"].dtype, made["score"].dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(made["normalized"], version)
    for name in ("image", "mask", "label"):
        np.testing.assert_array_equal(made[name], original[name])
    np.testing.assert_allclose(made["score"], np.sort(made["map"][:, 3].reshape(2, -1))[:, -1], rtol=1e-6)
    image[1, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="case a: its image holds NaN"):
        list(map_cases([(case_of("a", image), case_of("a", version))], UNIT, AnomalyOptions(), None))


def places(case: str, maps: np.ndarray) -> list[Place]:
    return [(case, number) for number in range(len(maps))]


def calibrated(normal: list[np.ndarray], **options: Any) -> Calibration:
    return calibrate(
        [(places(str(number), maps), maps) for number, maps in enumerate(normal)], CalibrationOptions(**options)
    )


def test_calibration_finds_the_mean_and_spread_of_each_pixel() -> None:
    rng = np.random.default_rng(0)
    mean, std = 1 + rng.uniform(0, 1, (2, 4, 12, 16))  # another number in every pixel
    normal = [(mean + std * rng.normal(size=(4, 4, 12, 16))).astype(np.float32) for _ in range(500)]
    found = calibrated(normal, smoothing=0.0, shrinkage=0.0)
    np.testing.assert_allclose(found.estimates[0], mean, atol=0.2)
    np.testing.assert_allclose(found.estimates[1], std, rtol=0.1)
    z = found.deviations(normal[0], places("another", normal[0]))
    np.testing.assert_allclose(z, (normal[0] - found.estimates[0]) / found.estimates[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match="case a: its maps are 12 x 8, those to calibrate by are 12 x 16"):
        found.deviations(normal[0][..., :8], places("a", normal[0]))
    with pytest.raises(DataError, match="1 normal slices are too few"):
        calibrated([normal[0][:1]])


def test_a_normal_case_is_compared_with_the_others() -> None:
    rng = np.random.default_rng(0)
    normal = [rng.normal(size=(2, 4, 12, 16)).astype(np.float32) for _ in range(5)]
    found, others = calibrated(normal), calibrated(normal[:3] + normal[4:])
    held_out = found.deviations(normal[3], places("3", normal[3]))
    np.testing.assert_allclose(held_out, others.deviations(normal[3]), rtol=1e-4, atol=1e-5)
    assert np.abs(held_out).mean() > np.abs(found.deviations(normal[3], places("unseen", normal[3]))).mean()


def test_of_a_case_that_is_partly_ill_the_normal_slices_alone_are_left_out() -> None:
    options, rng = AnomalyOptions(), np.random.default_rng(0)
    header = SetHeader("map", derive("x", {}), UNIT, label_names=("ill", "normal"), notes={"map": options.note()})
    maps = [rng.normal(size=(4, 4, 12, 16)).astype(np.float32) for _ in range(4)]
    maps[0][2:] += 20  # a lesion, and labelled so
    labels = [np.array([1, 1, 0, 0]), *[np.ones(4, int)] * 3]
    cases = [
        Case(str(number), {"map": one, "label": label}, "val")
        for number, (one, label) in enumerate(zip(maps, labels, strict=True))
    ]
    found = calibrate(normal_maps(header, cases, options), options.calibration)
    others = calibrate(normal_maps(header, cases[1:], options), options.calibration)
    np.testing.assert_allclose(
        found.deviations(maps[0], places_of(cases[0])), others.deviations(maps[0]), rtol=1e-4, atol=1e-4
    )


def test_few_normal_images_are_drawn_towards_the_plane_and_many_are_not() -> None:
    rng = np.random.default_rng(1)
    mean = np.where(np.arange(16) < 8, 1.0, 3.0) * np.ones((4, 12, 16))
    images = mean + rng.normal(size=(400, 4, 12, 16))
    spread = {}
    for count in (4, 400):
        means, deviations = calibrated([images[:count]], smoothing=0.0, shrinkage=10.0).estimates
        spread[count] = means[..., 8:].mean() - means[..., :8].mean()
        # Without shrinkage four images would put some standard deviations near 0.
        assert 0.7 < deviations.min() < deviations.max() < 1.7
    assert spread[4] == pytest.approx(2 * 4 / 14, abs=0.3)
    assert spread[400] == pytest.approx(2, abs=0.15)
    smooth = calibrated([images], smoothing=3.0, shrinkage=0.0).estimates[0]
    assert smooth[0, 6, 0] < 1.1
    assert 1.5 < smooth[0, 6, 7] < 2.5


def test_calibration_takes_normal_cases_of_its_split_alone_and_maps_made_alike() -> None:
    options = AnomalyOptions()
    header = SetHeader("map", derive("x", {}), UNIT, label_names=("ill", "normal"), notes={"map": options.note()})
    cases = [
        Case(
            str(number),
            {"map": np.full((1, 4, 2, 2), number, np.float32), "label": np.array([number % 2])},
            "val" if number < 6 else "test",
        )
        for number in range(8)
    ]
    assert [(places, float(maps.mean())) for places, maps in normal_maps(header, cases, options)] == [
        ([("1", 0)], 1), ([("3", 0)], 3), ([("5", 0)], 5),
    ]  # fmt: skip
    everywhere = AnomalyOptions(calibration=CalibrationOptions(split=None))
    assert [places[0][0] for places, _ in normal_maps(header, cases, everywhere)] == ["1", "3", "5", "7"]
    with pytest.raises(DataError, match="make both with the same options"):
        list(normal_maps(header, cases, AnomalyOptions(smoothing=1.0)))
    with pytest.raises(DataError, match="no class is called 'normal', its classes are ill, sick"):
        list(normal_maps(msgspec.structs.replace(header, label_names=("ill", "sick")), cases, options))
    made = map_header(header, derive("x", {}), options, calibrated=True)
    assert json.loads(made.notes["map"])["gradient"] == 0.5
    with pytest.raises(DataError, match="calibrated itself"):
        list(normal_maps(made, cases, options))
    with pytest.raises(DataError, match="of kind 'image'"):
        list(normal_maps(SetHeader("image", derive("x", {})), cases, options))
