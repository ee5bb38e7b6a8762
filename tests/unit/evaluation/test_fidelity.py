from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medgen.artifacts.schema import Intensity
from medgen.artifacts.sets import open_set
from medgen.evaluation.features.extractors import builtin_extractor
from medgen.evaluation.features.features import Extractor, Features, extract
from medgen.evaluation.fidelity.declaration import FidelityOptions
from medgen.evaluation.fidelity.figures import compare

EXTRACTOR = Extractor("test", "0" * 64, lambda x: x.flatten(1))
OPTIONS = FidelityOptions(subsets=20)


def features(count: int, shift: float = 0.0, seed: int = 0, slices_a_case: int = 2) -> Features:
    values = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift
    return Features(values, np.arange(count) // slices_a_case, np.arange(count))


def test_equal_distributions_lie_at_the_floor_and_shifted_ones_above() -> None:
    reference = features(400)
    same = compare(features(300, seed=1), reference, EXTRACTOR, OPTIONS).result
    for name in ("frechet_distance", "precision", "recall", "density", "coverage"):
        figure = same[name]
        assert figure["at_floor_size"]["mean"] == pytest.approx(figure["floor"]["mean"], rel=0.5)
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert same["frechet_distance"]["value"] < same["frechet_distance"]["at_floor_size"]["mean"]  # less bias
    assert abs(same["kernel_distance"]["value"]) < 0.05
    assert same["kernel_distance"]["low"] < 0 < same["kernel_distance"]["high"]
    assert same["density"]["value"] == pytest.approx(1, abs=0.15)

    shifted = compare(features(300, shift=1.0, seed=1), reference, EXTRACTOR, OPTIONS).result
    distance = shifted["frechet_distance"]
    assert distance["at_floor_size"]["mean"] > 10 * distance["floor"]["mean"]
    assert distance["value"] == pytest.approx(6.0, rel=0.2)
    assert shifted["kernel_distance"]["low"] > 0.3
    assert shifted["coverage"]["high"] < shifted["coverage"]["floor"]["low"]


def test_distances_are_called_fid_and_kid_for_inception_features_only() -> None:
    samples, reference = features(50, seed=1), features(60)
    plain = compare(samples, reference, EXTRACTOR, OPTIONS).result
    assert not {"fid", "kid", "inception_score"} & set(plain)
    inception = Extractor("inception-v3", "1" * 64, EXTRACTOR.pooled, lambda x: x.softmax(1))
    named = compare(samples, reference, inception, OPTIONS).result
    assert not {"frechet_distance", "kernel_distance"} & set(named)
    assert named["fid"] == plain["frechet_distance"]
    assert named["kid"] == plain["kernel_distance"]
    assert 1 <= named["inception_score"]["value"] <= 6


def test_the_result_depends_on_the_seed_alone() -> None:
    samples, reference = features(50, seed=1), features(60)
    first = compare(samples, reference, EXTRACTOR, OPTIONS, seed=3).result
    assert first == compare(samples, reference, EXTRACTOR, OPTIONS, seed=3).result
    assert (
        first["precision"]["floor"]
        != compare(samples, reference, EXTRACTOR, OPTIONS, seed=4).result["precision"]["floor"]
    )


def test_too_few_cases_leave_out_what_they_cannot_tell() -> None:
    one_case = compare(features(50, seed=1), features(60, slices_a_case=60), EXTRACTOR, OPTIONS).result
    assert one_case["floor_samples"] == 0
    assert one_case["frechet_distance"]["floor"] is None
    assert one_case["frechet_distance"]["low"] is None
    assert one_case["precision"] is None  # every image's neighbours are of its own case
    few = compare(features(5, seed=1), features(60), EXTRACTOR, OPTIONS).result
    assert few["coverage"] is None
    assert few["frechet_distance"]["value"] > 0


def test_the_interval_covers_what_other_draws_would_give() -> None:
    """Of the mean over many draws of that size, 95 intervals in 100 hold it; percentiles would hold it in none."""
    expected = float(
        np.mean([_distance(features(60, 0.3, 1000 + seed, 1), features(60, 0, seed, 1)) for seed in range(200)])
    )
    held = 0
    for seed in range(40):
        samples, reference = features(60, 0.3, 5000 + seed, 1), features(60, 0, 6000 + seed, 1)
        figure = compare(samples, reference, EXTRACTOR, FidelityOptions(subsets=2)).result["frechet_distance"]
        held += figure["low"] <= expected <= figure["high"]
    assert held >= 34


def _distance(a: Features, b: Features) -> float:
    from medgen.evaluation.fidelity.frechet import frechet_between

    return frechet_between(a.values, b.values)


def test_blur_raises_the_distance_of_the_builtin_features(make_set: Callable[..., Path]) -> None:
    with open_set(make_set("a.h5", count=40, size=32, seed=1), random_access=True) as stored:
        extractor = builtin_extractor()
        sharp = extract(stored, extractor)
        images = torch.from_numpy(Intensity().normalized(stored.read("image", range(stored.slices))))
    blurred = Features(extractor.pooled(torch.nn.functional.avg_pool2d(images, 3, 1, 1)), sharp.cases, sharp.slices)
    assert extractor.digest
    distance = compare(blurred, sharp, extractor, OPTIONS).result["frechet_distance"]
    assert distance["at_floor_size"]["low"] > 2 * distance["floor"]["high"]
