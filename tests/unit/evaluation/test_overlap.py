"""Dice, IoU and boundary distance against closed forms and another library, and what empty masks count as."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medgen.evaluation.segmentation.overlap import Agreement, agreement, boundary_distance, overlap, summary
from tests.unit.evaluation.made_pairs import disc

SIDE, RADIUS = 256, 60.0


@pytest.mark.parametrize("shift", [0.0, 10.0, 35.0, 90.0])
def test_shifted_discs_have_the_overlap_of_the_lens_between_them(shift: float) -> None:
    a, b = disc(SIDE, (128, 80), RADIUS), disc(SIDE, (128, 80 + shift), RADIUS)
    lens = 2 * RADIUS**2 * math.acos(shift / (2 * RADIUS)) - shift / 2 * math.sqrt(4 * RADIUS**2 - shift**2)
    whole = math.pi * RADIUS**2
    dice, iou = overlap(a, b)
    assert dice == pytest.approx(lens / whole, abs=0.005)
    assert iou == pytest.approx(lens / (2 * whole - lens), abs=0.005)


@pytest.mark.parametrize("shift", [10.0, 35.0, 90.0])
def test_boundaries_of_shifted_discs_are_as_far_apart_as_circles(shift: float) -> None:
    a, b = disc(SIDE, (128, 80), RADIUS), disc(SIDE, (128, 80 + shift), RADIUS)
    angles = np.linspace(0, 2 * np.pi, 10_000, endpoint=False)
    from_other_centre = np.sqrt(RADIUS**2 + shift**2 - 2 * RADIUS * shift * np.cos(angles))
    expected = np.abs(from_other_centre - RADIUS).mean()
    assert boundary_distance(a, b) == pytest.approx(expected, abs=0.5), "half a pixel of the grid"
    assert boundary_distance(a, b) == boundary_distance(b, a)


def test_one_disc_in_another_is_as_far_as_their_radii_differ_in_mm() -> None:
    inner, outer = disc(SIDE, (128, 128), 40), disc(SIDE, (128, 128), 60)
    assert boundary_distance(inner, outer) == pytest.approx(20, rel=0.02)
    assert boundary_distance(inner, outer, (0.5, 0.5)) == pytest.approx(10, rel=0.02)
    assert boundary_distance(inner, inner) == 0.0


def test_a_distance_across_counts_the_width_of_a_pixel_and_one_down_its_height() -> None:
    left, right = (np.zeros((20, 20), bool) for _ in range(2))
    left[:, 3], right[:, 8] = True, True
    assert boundary_distance(left, right, (7.0, 0.5)) == 2.5
    assert boundary_distance(left.T, right.T, (7.0, 0.5)) == 35.0


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.9)])
def test_another_library_finds_the_same(spacing: tuple[float, float]) -> None:
    metrics = pytest.importorskip("monai.metrics")
    random = np.random.default_rng(3)
    for _ in range(8):
        both = []
        for _ in range(2):
            mask = np.zeros((48, 40), bool)
            for _ in range(2):  # two discs, well inside and also cut off by the margin
                mask |= disc(48, tuple(random.uniform(0, 40, 2)), random.uniform(4, 12))[:, :40]
            both.append(mask)
        a, b = both
        ours, theirs = (torch.from_numpy(one)[None, None].float() for one in both)
        distance = metrics.compute_average_surface_distance(
            ours, theirs, include_background=True, symmetric=True, spacing=list(spacing)
        )
        assert boundary_distance(a, b, spacing) == pytest.approx(float(distance), rel=1e-5)
        dice, iou = overlap(a, b)
        assert dice == pytest.approx(float(metrics.compute_dice(ours, theirs)), rel=1e-5)
        assert iou == pytest.approx(float(metrics.compute_iou(ours, theirs)), rel=1e-5)


def compared(found: np.ndarray, true: np.ndarray, classes: int = 3) -> Agreement:
    return agreement(found, true, classes, np.ones((len(true), 2)), np.arange(len(true)))


def test_empty_masks_are_negatives_that_are_counted_apart() -> None:
    assert overlap(np.zeros((4, 4), bool), np.zeros((4, 4), bool)) == (1.0, 1.0)
    true, found = (np.zeros((4, 8, 8), np.uint8) for _ in range(2))
    true[0, 2:4, 2:4] = 1  # found
    found[0, 2:4, 2:4] = 1
    true[1, 2:4, 2:4] = 1  # missed
    found[2, 5, 5] = 1  # found where there is nothing; and in image 3 nothing, rightly
    told = summary(compared(found, true, classes=2), ("background", "disc"), seed=0)["overall"]
    assert (told["positives"], told["negatives"], told["missed"]) == (2, 2, 1)
    assert told["dice"]["value"] == 0.5
    assert told["boundary_distance"]["value"] == 0.0, "only where something was found"
    assert told["false_positive_rate"]["value"] == 0.5


def test_overall_is_the_mean_of_the_classes_that_an_image_has() -> None:
    true, found = (np.zeros((3, 8, 8), np.uint8) for _ in range(2))
    true[0, :2], true[0, 4:6] = 1, 2
    found[0, :2], found[0, 6:] = 1, 2  # class 1 wholly, class 2 not at all
    true[1, :4], found[1, :2] = 2, 2  # class 2 by half
    found[2, 0, 0] = 1
    agreed = compared(found, true)
    np.testing.assert_allclose(agreed.overall("dice"), [0.5, 2 / 3, np.nan])
    np.testing.assert_allclose(agreed.overall("iou"), [0.5, 0.5, np.nan])
    np.testing.assert_array_equal(agreed.overall("false_positive"), [np.nan, np.nan, 1.0])
    told = summary(agreed, ("background", "a", "b"), seed=0)["classes"]
    assert told["a"]["false_positive_rate"]["value"] == 0.5, "of the images without it, those in which it was found"
    assert told["b"]["positives"] == 2


def test_one_case_has_a_mean_without_an_interval() -> None:
    true = np.ones((2, 4, 4), np.uint8)
    agreed = agreement(true, true, 2, np.ones((2, 2)), np.zeros(2, np.int64))
    assert summary(agreed, ("background", "disc"), seed=0)["overall"]["dice"] == {
        "value": 1.0,
        "low": None,
        "high": None,
    }
