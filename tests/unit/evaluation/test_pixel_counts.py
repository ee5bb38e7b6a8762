"""Counted pixels give the numbers of the pixels themselves, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest

from medgen.evaluation.anomaly.detection import (
    auroc,
    auroc_of_counts,
    average_precision,
    average_precision_of_counts,
    codes_of,
)
from medgen.evaluation.anomaly.lesions import lesions_of
from medgen.evaluation.anomaly.nearest_normal import nearest_rows
from medgen.evaluation.anomaly.pixel_counts import PixelCounts
from medgen.evaluation.intervals import fraction_interval


def images(seed: int, count: int, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy maps (N, 24, 24) that are higher inside a random box, and the boxes."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 24, 24), bool)
    for mask in masks:
        y, x, side = (int(part) for part in (*rng.integers(0, 16, 2), rng.integers(3, 8)))
        mask[y : y + side, x : x + side] = True
    return (rng.gamma(2.0, 1.0, masks.shape) + strength * masks).astype(np.float32), masks


def counted(maps: np.ndarray, masks: np.ndarray, first: int = 0) -> PixelCounts:
    counts = PixelCounts()
    for case, (image, mask) in enumerate(zip(maps, masks, strict=True), first):
        counts.add(case, codes_of(image).reshape(image.shape), mask)
    return counts


def test_counts_are_nearly_exact() -> None:
    maps, masks = images(0, 40)
    counts = counted(maps, masks)
    for of_counts, exact in ((auroc_of_counts, auroc), (average_precision_of_counts, average_precision)):
        expected = exact(masks.reshape(-1), maps.reshape(-1))
        assert float(of_counts(counts.positives, counts.negatives)) == pytest.approx(expected, abs=2e-4)
        coarse = [part.sum(0) for part in counts.of_cases()]
        assert float(of_counts(*coarse)) == pytest.approx(expected, abs=2e-3)


def test_the_bootstrap_draws_images_as_a_direct_one_would() -> None:
    maps, masks = images(1, 12)
    found = counted(maps, masks).bootstrap(auroc_of_counts, seed=3, draws=200)
    assert found is not None
    rng = np.random.default_rng(3)
    direct = []
    for _ in range(200):
        drawn = rng.integers(12, size=12)
        direct.append(auroc(masks[drawn].reshape(-1), maps[drawn].reshape(-1)))
    expected = fraction_interval(auroc(masks.reshape(-1), maps.reshape(-1)), np.array(direct), 12)
    assert found == pytest.approx(expected, abs=0.005)
    assert found["low"] < found["value"] < found["high"]


def test_intervals_cover_what_many_images_tell() -> None:
    maps, masks = images(2, 2000)
    truth = auroc(masks.reshape(-1), maps.reshape(-1))
    covered = 0
    for seed in range(40):
        part = counted(*images(100 + seed, 25)).bootstrap(auroc_of_counts, seed=seed, draws=200)
        assert part is not None
        covered += part["low"] <= truth <= part["high"]
    assert covered >= 33


def test_joined_counts_are_those_of_all_images() -> None:
    maps, masks = images(3, 10)
    whole = counted(maps, masks)
    joined = counted(maps[:6], masks[:6]).joined(counted(maps[6:], masks[6:], first=6))
    np.testing.assert_array_equal(whole.positives, joined.positives)
    for ours, theirs in zip(whole.of_cases(), joined.of_cases(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert joined.cases == list(range(10))


def test_one_case_has_no_interval() -> None:
    assert counted(*images(4, 1)).bootstrap(auroc_of_counts) is None


def test_a_lesion_is_found_up_to_the_score_of_its_tenth_brightest_part() -> None:
    mask = np.zeros((12, 12), bool)
    mask[0:4, 0:5] = True  # 20 pixels
    mask[7, 7] = mask[8, 8] = True  # touch by a corner
    scores = np.arange(144, dtype=np.uint16).reshape(12, 12)
    first, second = lesions_of(mask, scores, 0.1)
    assert (first.area, second.area) == (20, 2)
    assert first.code == np.sort(scores[0:4, 0:5].reshape(-1))[-2]
    assert second.code == 8 * 12 + 8
    assert lesions_of(mask, scores, 1.0)[1].code == 7 * 12 + 7
    assert lesions_of(np.zeros_like(mask), scores, 0.1) == []


def test_nearest_rows_are_those_of_the_whole_distance_matrix() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (
        rng.normal(size=(150, 1, 6, 5)).astype(np.float32),
        rng.normal(size=(200, 1, 6, 5)).astype(np.float32),
    )
    queries, candidates = np.arange(3, 150), np.arange(10, 200, 2)
    told: list[int] = []
    found = nearest_rows(queries, lambda rows: ours[rows], candidates, lambda rows: theirs[rows], told.append)
    distance = ((ours[queries, None] - theirs[None, candidates]) ** 2).sum(axis=(2, 3, 4))
    np.testing.assert_array_equal(found, candidates[distance.argmin(1)])
    assert sum(told) == len(queries)


def test_the_nearest_of_like_images_is_found_in_any_order_of_pixels() -> None:
    """Images of 256 x 256 that differ by single grey levels: the terms of |a - b|^2 are far larger than it is."""
    rng = np.random.default_rng(1)
    scene = rng.uniform(-1, 1, (1, 1, 256, 256)).astype(np.float32)
    changed = np.repeat(scene, 12, axis=0)
    for number, image in enumerate(changed):
        image[0, 0, : 12 - number] += np.float32(1 / 255)  # the last one lies nearest
    order = rng.permutation(256 * 256)
    for gallery, query in ((changed, scene), (changed.reshape(12, -1)[:, order], scene.reshape(1, -1)[:, order])):
        found = nearest_rows(np.array([0]), query.__getitem__, np.arange(12), gallery.__getitem__)
        assert found.tolist() == [11]
