from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError
from medgen.evaluation.features.features import Extractor, FeatureBank, extract

EXTRACTOR = Extractor("test", "0" * 64, lambda x: x.flatten(1))


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
    np.testing.assert_array_equal(found.slices, np.delete(np.arange(70), 68))
    expected = Intensity().normalized(np.delete(images, 68, axis=0)).reshape(69, -1)
    np.testing.assert_allclose(found.values.numpy(), expected, atol=1e-5)


def test_nothing_finite_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", np.full((2, 16, 16), np.nan))
    with open_set(path, random_access=True) as stored, pytest.raises(DataError, match="without a single finite image"):
        extract(stored, EXTRACTOR)


def test_the_bank_keeps_features_by_set_and_split(tmp_path: Path) -> None:
    seen: list[int] = []

    def pooled(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images.flatten(1)

    bank = FeatureBank(Extractor("test", "0" * 64, pooled))
    images = np.random.default_rng(0).uniform(-1000, 400, (3, 16, 16))
    with open_set(write(tmp_path / "a.h5", images), random_access=True) as stored:
        whole, again, split = bank.of(stored), bank.of(stored), bank.of(stored.only("train"))
    assert seen == [3]
    assert again is whole
    assert split is whole  # all cases are of that split
    with open_set(write(tmp_path / "b.h5", images[:2]), random_access=True) as other:
        assert len(bank.of(other)) == 2
    assert seen == [3, 2]
