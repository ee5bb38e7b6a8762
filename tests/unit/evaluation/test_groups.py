from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import UsageError
from medgen.evaluation.features.features import Extractor, FeatureBank
from medgen.evaluation.fidelity.declaration import FidelityOptions
from medgen.evaluation.fidelity.metric import measure
from medgen.evaluation.groups import Rows, groups
from medgen.evaluation.inputs import Inputs
from medgen.reporting import Silent


def write(
    path: Path, sizes: Sequence[float], modality: Sequence[str], label: Sequence[int], names: tuple[str, ...] = ()
) -> Path:
    """Cases of two slices each."""
    facts = SetHeader("image", derive("preprocess", {}), intensity=Intensity(), vector_fields=("size",))
    header = msgspec.structs.replace(facts, label_names=names)
    with create_set(path, header) as writer:
        for case in range(len(sizes) // 2):
            rows = slice(2 * case, 2 * case + 2)
            arrays = {
                "image": np.zeros((2, 1, 8, 8), np.int16),
                "vector": np.array(sizes[rows], np.float32)[:, None],
                "label": np.array(label[rows]),
            }
            split = ("train", "test")[case % 2]
            writer.write(Case(f"c{case}", arrays, split, modality=tuple(modality[rows])))
    return path


def found(tmp_path: Path, field: str, ours: dict[str, list], theirs: dict[str, list]) -> dict[str, tuple[Rows, Rows]]:
    a, b = write(tmp_path / "a.h5", **ours), write(tmp_path / "b.h5", **theirs)
    with open_set(a, random_access=True) as stored, open_set(b, random_access=True) as real:
        return {name: (x.tolist(), y.tolist()) for name, (x, y) in groups(stored, real, field).items()}


OURS = {"sizes": [0, 0.1, 0.2, 0.9], "modality": ["CT", "MR", "CT", "CT"], "label": [1, 1, 2, 10]}
THEIRS = {"sizes": [0, 0.1, 0.2, 0.3], "modality": ["MR", "MR", "XR", "XR"], "label": [1, 2, 2, 1]}


def test_texts_labels_and_splits_are_groups(tmp_path: Path) -> None:
    for name, told in (("v", OURS["modality"]), ("w", ["CT", "mr", "ct", " Ct "])):  # the same, in other spellings
        (tmp_path / name).mkdir()
        assert found(tmp_path / name, "modality", OURS | {"modality": told}, THEIRS) == {
            "CT": ([0, 2, 3], []), "MR": ([1], [0, 1]), "XR": ([], [2, 3])
        }  # fmt: skip
    (tmp_path / "x").mkdir()
    assert found(tmp_path / "x", "label", OURS, THEIRS) == {"1": ([0, 1], [0, 3]), "2": ([2], [1, 2]), "10": ([3], [])}
    (tmp_path / "y").mkdir()
    assert found(tmp_path / "y", "split", OURS, THEIRS) == {"test": ([2, 3], [2, 3]), "train": ([0, 1], [0, 1])}


def test_classes_are_the_same_by_their_names_whatever_their_numbers(tmp_path: Path) -> None:
    ours = OURS | {"label": [0, 1, 2, 2], "names": ("benign", "malignant", "normal")}
    theirs = THEIRS | {"label": [0, 1, 1, 1], "names": ("malignant", "normal")}
    assert found(tmp_path, "label", ours, theirs) == {
        "benign": ([0], []), "malignant": ([1], [0]), "normal": ([2, 3], [1, 2, 3])
    }  # fmt: skip
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError, match="classes have names, in the other only numbers"):
        found(tmp_path / "x", "label", ours, THEIRS)


def test_few_values_of_a_field_are_groups_and_many_fall_into_thirds_of_the_real_ones(tmp_path: Path) -> None:
    few = found(tmp_path, "size", OURS, THEIRS)
    assert few == {"0": ([0], [0]), "0.1": ([1], [1]), "0.2": ([2], [2]), "0.3": ([], [3]), "0.9": ([3], [])}
    (tmp_path / "x").mkdir()
    many = {**THEIRS, "sizes": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]}
    many = {name: (values * 3)[:10] if name != "sizes" else values for name, values in many.items()}
    thirds = found(tmp_path / "x", "size", OURS, many)
    assert thirds == {
        "up to 0.3": ([0, 1, 2], [0, 1, 2, 3]),
        "0.3 to 0.6": ([], [4, 5, 6]),
        "above 0.6": ([3], [7, 8, 9]),
    }


def test_a_field_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--by shape: the set does not have it; it has split, modality, label, size"):
        found(tmp_path, "shape", OURS, THEIRS)


@pytest.mark.parametrize(("modality", "parts"), [(["CT", "MR", "CT", "MR"], {"CT", "MR"}), (["CT"] * 4, None)])
def test_fidelity_is_told_by_modality_where_there_are_several(
    tmp_path: Path, modality: list[str], parts: set[str] | None
) -> None:
    facts = {"sizes": [0, 0.1, 0.2, 0.9], "modality": modality, "label": [1, 1, 2, 2]}
    a, b = write(tmp_path / "a.h5", **facts), write(tmp_path / "b.h5", **facts)
    extractor = Extractor("mean", "", lambda images: images.mean((2, 3)).double())
    with open_set(a, random_access=True) as stored, open_set(b, random_access=True) as real:
        inputs = Inputs(stored, FeatureBank(extractor), Silent().progress, reference=real)
        by = measure(inputs, FidelityOptions()).result["by"]
    assert by == {} if parts is None else set(by["modality"]) == parts
