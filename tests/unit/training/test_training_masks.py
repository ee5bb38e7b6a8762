"""Masks in batches, drawing by their area, and views of image and mask together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgen.artifacts.label_maps import one_hot
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError
from medgen.training.data.options import Balance
from medgen.training.data.slices import Slices

NAMES = ("background", "polyp", "tool")


def write_masked(path: Path, *, names: tuple[str, ...] = NAMES, masks: bool = True) -> Path:
    """Twelve cases of one slice: four without a lesion, four of 4 and four of 64 of the 256 pixels."""
    header = SetHeader("image", derive("make", {"names": names}), Intensity(), mask_names=names)
    with create_set(path, header) as writer:
        for number in range(12):
            side, value = ((0, 0), (2, 1), (8, len(names[1:]) or 1))[number % 3]
            mask = np.zeros((1, 1, 16, 16), np.uint8)
            mask[..., :side, number % 4 : number % 4 + side] = value
            arrays: dict[str, Any] = {"image": (mask * 100.0).astype(np.int16)}
            writer.write(Case(f"case-{number:02d}", arrays | ({"mask": mask} if masks else {})))
    return path


def test_a_label_map_becomes_a_channel_for_each_class_but_the_background() -> None:
    labels = np.array([[[[0, 1, 2]]]], np.uint8)
    assert one_hot(labels, NAMES).tolist() == [[[[0, 1, 0]], [[0, 0, 1]]]]
    with pytest.raises(DataError, match=r"a mask holds 2, which is not a class; the classes are 0 background, 1 polyp"):
        one_hot(labels, NAMES[:2])
    with pytest.raises(DataError, match="masks of 2 channels are no label maps"):
        one_hot(np.zeros((1, 2, 4, 4), np.uint8), NAMES)


@pytest.mark.parametrize(("names", "channels"), [(NAMES, 2), ((), 1)])
def test_masks_come_with_their_images(tmp_path: Path, names: tuple[str, ...], channels: int) -> None:
    with open_set(write_masked(tmp_path / "set.h5", names=names), random_access=True) as stored:
        batch = Slices(stored, "train", 0, masks=True).at(range(12))
        assert batch["mask"].shape == (12, channels, 16, 16)
        assert batch["mask"].dtype == torch.float32
        covered = batch["mask"].sum(1, keepdim=True) > 0
        assert torch.equal(covered, batch["x"] > batch["x"].amin())
        assert sorted(covered.sum((1, 2, 3)).tolist()) == [0] * 4 + [4] * 4 + [64] * 4
        assert "mask" not in Slices(stored, "train", 0).at([0])


def test_samples_are_drawn_by_the_area_of_their_mask(tmp_path: Path) -> None:
    with open_set(write_masked(tmp_path / "set.h5"), random_access=True) as stored:

        def areas(balance: Balance | None) -> list[int]:
            drawn = Slices(stored, "train", 0, balance, masks=True).at(range(60))["mask"]
            return drawn.sum((1, 2, 3)).int().tolist()  # type: ignore[no-any-return]

        assert [areas(None).count(area) for area in (0, 4, 64)] == [20, 20, 20]
        some = areas(Balance("mask_area", 0.5))
        assert some.count(0) == 30
        small = areas(Balance("mask_area", 0.5, at_most=0.05))
        assert small.count(4) == 30
        with pytest.raises(DataError, match=r"'mask_area' is never above 0 and at most 0\.001"):
            areas(Balance("mask_area", 0.5, at_most=0.001))


def test_a_set_without_masks_cannot_be_drawn_by_them(tmp_path: Path) -> None:
    with (
        open_set(write_masked(tmp_path / "set.h5", masks=False), random_access=True) as stored,
        pytest.raises(DataError, match="the set has no masks; preprocess it with --masks"),
    ):
        Slices(stored, "train", 0, Balance("mask_area"))
