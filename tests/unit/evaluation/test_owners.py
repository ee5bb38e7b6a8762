"""What is learned from images of one patient is never tried on others of the same patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.stored import StoredSet
from medgen.evaluation.agreement.by_probe import texts_of
from medgen.evaluation.conditioning.declaration import FIELDS
from medgen.evaluation.conditioning.metric import observe
from medgen.evaluation.conditioning.patches import rate
from medgen.evaluation.segmentation.real_pairs import pairs_in
from medgen.imaging.cases.identity import case_id


def write(path: Path, patients: str, split: str, *, secret: bytes | None) -> Path:
    """One CT image of a patient a letter, two slices each, with a nodule, a text and a mask."""
    header = SetHeader(
        "image", derive("make", {"name": path.stem}), Intensity(), FIELDS, mask_names=("background", "x")
    )
    with create_set(path, header) as writer:
        for number, patient in enumerate(patients):
            arrays = {
                "image": np.full((2, 1, 24, 24), -800, np.int16),
                "vector": np.full((2, len(FIELDS)), 0.5, np.float32),
                "mask": np.ones((2, 1, 24, 24), np.uint8),
            }
            name = case_id(2, f"{path.stem} {number}".encode(), patient, secret)
            writer.write(Case(name, arrays, split, text=("a", "b")))
    return path


GROUPS: dict[str, Callable[[StoredSet], Any]] = {
    "probe of texts": lambda stored: texts_of(stored).cases,
    "rule of nodules": lambda stored: observe(stored).cases,
    "probe of nodules": lambda stored: rate(stored, FIELDS, FIELDS[1:2]).cases,
}


@pytest.mark.parametrize("name", GROUPS)
def test_images_of_a_patient_stay_together_where_ids_tell(tmp_path: Path, name: str) -> None:
    for secret, expected in ((b"s" * 16, [0, 1, 0, 3, 1]), (None, [0, 1, 2, 3, 4])):
        path = write(tmp_path / f"{len(secret or b'')}.h5", "ABACB", "train", secret=secret)
        with open_set(path, random_access=True) as stored:
            np.testing.assert_array_equal(GROUPS[name](stored), np.repeat(expected, 2))


def test_a_segmenter_is_not_tried_on_patients_that_it_learned_from(tmp_path: Path) -> None:
    for secret, expected in ((b"s" * 16, [2, 3]), (None, [0, 1, 2, 3])):
        known, others = (
            write(tmp_path / f"{name}{len(secret or b'')}.h5", patients, split, secret=secret)
            for name, patients, split in (("known", "AB", "train"), ("others", "AC", "test"))
        )
        with open_set(known, random_access=True) as training, open_set(others, random_access=True) as reference:
            found = pairs_in(reference, training)
        assert found is not None
        assert found.held_out.tolist() == expected
