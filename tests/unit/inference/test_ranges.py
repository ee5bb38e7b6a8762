"""Masks whose pixels are of another size than those of the training are warned of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.inference.conditions.ranges import far_outside
from medgen.inference.conditions.requests import Requests
from medgen.models.facts import DenoiserFacts

FACTS = DenoiserFacts(
    space="image", shape=(1, 8, 8), schedule={}, objective="eps", intensity=Intensity(),
    spacing_range=((1.0, 1.0), (0.6, 0.8), (0.6, 0.8)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("spacings", "masks", "told"),
    [
        ([0.6, 0.85], True, ""),
        ([0.7, 1.4], True, "masks have pixels of 1.4 mm, and the images of the training had 0.6 to 0.8 mm"),
        ([0.3, 0.7], True, "pixels of 0.3 mm"),
        ([1.4], False, ""),
        ([1.0], True, ""),  # pictures, whose pixels have no size
    ],
)
def test_masks_of_other_pixels_are_warned_of(tmp_path: Path, spacings: list[float], masks: bool, told: str) -> None:
    with create_set(tmp_path / "s.h5", SetHeader("image", derive("make", {}), Intensity())) as writer:
        for number, side in enumerate(spacings):
            image = np.zeros((1, 1, 8, 8), np.int16)
            writer.write(Case(str(number), {"image": image}, spacing=(1.0, side, side)))
    asked = Requests(1, masks=cast(Any, object()) if masks else None)
    with open_set(tmp_path / "s.h5", random_access=True) as stored:
        warnings = list(far_outside(FACTS, 2.0, asked, [stored]))
    assert len(warnings) == bool(told)
    assert told in "".join(warnings)
