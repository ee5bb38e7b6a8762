from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError
from medgen.metrics.extractors import builtin_extractor
from medgen.metrics.features import Extractor, Features, extract
from medgen.metrics.fidelity import compare, halves

EXTRACTOR = Extractor("test", "0" * 64, lambda x: x.flatten(1))


def features(count: int, shift: float = 0.0, seed: int = 0, slices_a_case: int = 2) -> Features:
    values = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift
    return Features(values, np.arange(count) // slices_a_case, np.arange(count))


def test_equal_distributions_lie_at_the_floor_and_shifted_ones_above() -> None:
    reference = features(400)
    same = compare(features(300, seed=1), reference, EXTRACTOR)
    assert same["at_floor_size"]["mean"] == pytest.approx(same["floor"]["mean"], rel=0.5)
    assert same["frechet_distance"] < same["at_floor_size"]["mean"]  # more samples, less bias
    shifted = compare(features(300, shift=1.0, seed=1), reference, EXTRACTOR)
    assert shifted["at_floor_size"]["mean"] > 10 * shifted["floor"]["mean"]
    assert shifted["frechet_distance"] == pytest.approx(6.0, rel=0.2)


def test_the_result_names_the_extractor_and_depends_on_the_seed_alone() -> None:
    first = compare(features(50, seed=1), features(60), EXTRACTOR, seed=3)
    assert first == compare(features(50, seed=1), features(60), EXTRACTOR, seed=3)
    assert first["floor"] != compare(features(50, seed=1), features(60), EXTRACTOR, seed=4)["floor"]
    assert first["extractor"] == {"name": "test", "digest": "0" * 64, "features": 6}
    assert not any("fid" in name.lower() for name in first)


def test_small_samples_and_few_cases_are_warned_of() -> None:
    few = compare(features(5, seed=1), features(60), EXTRACTOR)
    assert "biased" in few["warnings"][0]
    one_case = compare(features(50, seed=1), features(60, slices_a_case=60), EXTRACTOR)
    assert one_case["floor"] is None
    assert "too few cases" in one_case["warnings"][-1]
    assert compare(features(50, seed=1), features(60), EXTRACTOR)["warnings"] == []


@given(st.lists(st.integers(1, 9), min_size=2, max_size=20), st.integers(0, 99))
def test_halves_share_no_case_and_cover_all(counts: list[int], seed: int) -> None:
    cases = np.repeat(np.arange(len(counts)), counts)
    left, right = halves(cases, np.random.default_rng(seed))
    assert sorted([*left, *right]) == list(range(len(cases)))
    assert not set(cases[left]) & set(cases[right])
    assert len(left) > 0
    assert len(right) > 0
    assert abs(len(left) - len(right)) <= 2 * max(counts)


def write(path: Path, images: np.ndarray) -> Path:
    header = SetHeader("image", derive("preprocess", {}), intensity=Intensity())
    with create_set(path, header) as writer:
        for number, image in enumerate(images):
            writer.write(Case(f"c{number}", {"image": image[None, None].astype(np.float32)}))
    return path


def test_features_are_those_of_the_normalised_slices_and_nan_is_counted(tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(-1000, 400, (70, 16, 16))  # more than one batch
    images[68, 0, 0] = np.nan
    with open_set(write(tmp_path / "a.h5", images), random_access=True) as stored:
        found = extract(stored, EXTRACTOR)
    assert found.skipped == 1
    np.testing.assert_array_equal(found.cases, np.delete(np.arange(70), 68))
    expected = Intensity().normalized(np.delete(images, 68, axis=0)).reshape(69, -1)
    np.testing.assert_allclose(found.values.numpy(), expected, atol=1e-5)


def test_nothing_finite_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", np.full((2, 16, 16), np.nan))
    with open_set(path, random_access=True) as stored, pytest.raises(DataError, match="without a single finite image"):
        extract(stored, EXTRACTOR)


def test_blur_raises_the_distance_of_the_builtin_features(make_set: Callable[..., Path]) -> None:
    with open_set(make_set("a.h5", count=40, size=32, seed=1), random_access=True) as stored:
        extractor = builtin_extractor()
        sharp = extract(stored, extractor)
        images = torch.from_numpy(Intensity().normalized(stored.read("image", range(stored.slices))))
    blurred = Features(extractor.pooled(torch.nn.functional.avg_pool2d(images, 3, 1, 1)), sharp.cases, sharp.slices)
    assert extractor.digest
    result = compare(blurred, sharp, extractor)
    assert result["at_floor_size"]["low"] > 2 * result["floor"]["high"]
