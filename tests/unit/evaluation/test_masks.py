"""Faithfulness to masks: what obeys scores like real pairs, what does not like chance; and what is refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgen.artifacts.sets import open_set
from medgen.errors import DataError, UsageError
from medgen.evaluation.evaluate import choose
from medgen.evaluation.features.extractors import builtin_extractor
from medgen.evaluation.features.features import FeatureBank
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.masks.declaration import MASKS, MasksOptions
from medgen.evaluation.masks.metric import measure, partners
from medgen.evaluation.section import Section
from medgen.evaluation.segmentation.options import SegmenterOptions
from tests.unit.evaluation.made_pairs import SIDE, Made, made, silent, write

OPTIONS = MasksOptions(segmenter=SegmenterOptions(side=SIDE, width=8, steps=100, batch_size=8))
BANK = FeatureBank(builtin_extractor())
"""Keeps the segmenter of the reference over all tests."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 real pairs to learn from, 20 held out, of which 5 show nothing."""
    return write(tmp_path_factory.mktemp("masks") / "real.h5", made(60, seed=1, empty=5), ["train"] * 40 + ["val"] * 20)


def evaluate(samples: Path, reference: Path, **more: Any) -> Section:
    with contextlib.ExitStack() as stack:
        stored, real = (stack.enter_context(open_set(path, random_access=True)) for path in (samples, reference))
        return measure(Inputs(stored, BANK, silent, reference=real, **more), OPTIONS)


def generated(path: Path, pairs: Made, **facts: Any) -> Path:
    return write(path, pairs, ["none"] * len(pairs.images), synthetic="generated", **facts)


def test_images_that_obey_their_masks_score_as_real_ones(tmp_path: Path, reference: Path) -> None:
    section = evaluate(generated(tmp_path / "s.h5", made(30, seed=2, empty=6)), reference)
    result = section.result
    assert result["samples"]["overall"]["dice"]["value"] > 0.85
    assert result["ratio_to_real"]["overall"]["value"] == pytest.approx(1.0, abs=0.1)
    assert result["ratio_to_real"]["overall"]["low"] < 1.05
    assert result["chance"]["overall"]["dice"]["value"] < 0.3
    assert (result["samples"]["overall"]["positives"], result["samples"]["overall"]["negatives"]) == (24, 6)
    assert result["learned_from"] == {"pairs": 40, "cases": 40}
    assert result["real"]["images"] == 20
    assert result["boundary_unit"] == "pixels"
    assert set(section.scores["dice"].values) == {f"s{number}" for number in range(24)}
    json.dumps(result, allow_nan=False)


def test_a_sample_of_nan_is_left_out_and_told(tmp_path: Path, reference: Path) -> None:
    pairs = made(12, seed=2)
    broken = Made(pairs.images.astype(np.float32), pairs.masks)
    broken.images[4] = np.nan
    section = evaluate(generated(tmp_path / "s.h5", broken), reference)
    assert section.result["left_out"] == {"samples": 1, "real": 0}
    assert section.result["samples"]["images"] == 11
    assert "s4" not in section.scores["dice"].values
    assert any("1 samples hold NaN or infinity" in one for one in section.warnings)


def test_images_of_other_masks_score_as_chance(tmp_path: Path, reference: Path) -> None:
    pairs = made(30, seed=2)
    result = evaluate(generated(tmp_path / "s.h5", Made(pairs.images, np.roll(pairs.masks, 1, 0))), reference).result
    dice, chance = (result[part]["overall"]["dice"] for part in ("samples", "chance"))
    assert dice["value"] < 0.3
    assert dice["low"] <= chance["high"]
    assert chance["low"] <= dice["high"]


def test_images_that_obey_half_of_their_masks_score_half(tmp_path: Path, reference: Path) -> None:
    pairs = made(30, seed=2)
    without = made(30, seed=3, empty=30).images
    half = np.where(np.arange(30)[:, None, None, None] % 2, pairs.images, without)
    result = evaluate(generated(tmp_path / "s.h5", Made(half, pairs.masks)), reference).result
    assert result["ratio_to_real"]["overall"]["value"] == pytest.approx(0.5, abs=0.1)
    assert result["samples"]["overall"]["missed"] >= 12


def test_distances_are_in_mm_where_all_spacings_are_known(tmp_path: Path) -> None:
    real = write(tmp_path / "r.h5", made(30, seed=1), ["train"] * 20 + ["test"] * 10, spacing=(3.0, 0.5, 0.5))
    samples = made(10, seed=2)
    found = [
        evaluate(generated(tmp_path / f"{name}.h5", samples, spacing=spacing), real).result
        for name, spacing in (("mm", (3.0, 0.5, 0.5)), ("pixels", (1.0, 4.5, 6.0)))
    ]
    assert [one["boundary_unit"] for one in found] == ["mm", "pixels"]
    in_mm, in_pixels = (one["samples"]["overall"]["boundary_distance"]["value"] for one in found)
    assert in_mm == pytest.approx(in_pixels / 2)
    in_mm, in_pixels = (one["real"]["overall"]["boundary_distance"]["value"] for one in found)
    assert in_mm == pytest.approx(in_pixels / 2)


def test_diversity_tells_one_image_for_each_mask_from_several(tmp_path: Path, reference: Path) -> None:
    """20 masks twice: with the same image but for a trace of noise, or with another ground."""
    pairs = made(20, seed=4)
    masks = np.concatenate([pairs.masks] * 2)
    alike = np.concatenate([pairs.images, pairs.images ^ 1])
    other = made(20, seed=5, empty=20).images.copy()
    other[pairs.masks > 0] = pairs.images[pairs.masks > 0]
    apart = np.concatenate([pairs.images, other])
    found = [
        evaluate(generated(tmp_path / f"{name}.h5", Made(images, masks)), reference).result["diversity"]
        for name, images in (("alike", alike), ("apart", apart))
    ]
    assert [one["masks_with_several_samples"] for one in found] == [20, 20]
    assert found[0]["samples_of_one_mask"]["value"] < 0.3 * found[0]["real"]["value"]
    assert found[1]["samples_of_one_mask"]["low"] > 2 * found[0]["samples_of_one_mask"]["high"]


def test_chance_takes_a_mask_that_differs() -> None:
    groups = np.array([0, 0, 0, 1, 2, 2, 3], np.int64)
    rows, others = partners(groups, np.random.default_rng(0))
    assert sorted(rows) == list(range(7))
    assert (groups[rows] != groups[others]).all()
    rows, others = partners(np.zeros(5, np.int64), np.random.default_rng(0))
    assert len(rows) == len(others) == 0


def test_pictures_show_mask_image_and_what_was_found(tmp_path: Path, reference: Path) -> None:
    section = evaluate(generated(tmp_path / "s.h5", made(10, seed=6)), reference)
    for gallery in section.galleries:
        assert [picture.caption.split(",")[0] for picture in gallery.rows[0]] == ["mask", "image", "found"]
        assert gallery.rows[0][0].pixels.shape == (SIDE, SIDE, 3)
    dice = [float(row[2].caption.split()[-1]) for row in section.galleries[0].rows]
    assert dice == sorted(dice)


def test_classes_are_told_apart(tmp_path: Path) -> None:
    """Dark and bright discs are of two classes; samples swap them in the image, not in the mask."""
    names = ("background", "bright", "dark")
    pairs = made(60, seed=7, contrasts=(70.0, -70.0))
    pairs.masks[1::2] *= 2
    real = write(tmp_path / "r.h5", pairs, ["train"] * 40 + ["test"] * 20, names=names)
    samples = made(20, seed=8, contrasts=(70.0, -70.0))
    samples.masks[1::2] *= 2
    right = evaluate(generated(tmp_path / "a.h5", samples, names=names), real)
    swapped = Made(samples.images, np.where(samples.masks > 0, 3 - samples.masks, 0).astype(np.uint8))
    wrong = evaluate(generated(tmp_path / "b.h5", swapped, names=names), real).result
    for name in names[1:]:
        assert right.result["ratio_to_real"][name]["value"] > 0.8
        assert wrong["ratio_to_real"][name]["value"] < 0.2
    assert [table.title for table in right.tables][1:3] == ["masks found: bright", "masks found: dark"]


def test_what_is_missing_is_named_with_the_remedy(tmp_path: Path, reference: Path) -> None:
    pairs = made(6, seed=9)
    samples = generated(tmp_path / "s.h5", pairs)
    bare = generated(tmp_path / "bare.h5", pairs, masks=False)
    one_split = write(tmp_path / "train.h5", pairs, ["train"] * 6)
    with contextlib.ExitStack() as stack:
        stored, unmasked, real, trained = (
            stack.enter_context(open_set(path, random_access=True)) for path in (samples, bare, reference, one_split)
        )
        whole = Inputs(stored, BANK, silent, reference=real)
        assert MASKS.lacking(whole) == ""
        assert "masks" in choose(None, whole)
        assert "utility" not in choose(None, whole), "it takes minutes"
        for inputs, words in (
            (
                replace(whole, stored=unmasked),
                "images with masks: generate them with --mask, or preprocess with --masks",
            ),
            (replace(whole, reference=None), "real images with masks: give --reference SET"),
            (replace(whole, reference=unmasked), "real images with masks: give --reference SET"),
            (replace(whole, reference=trained), "real pairs to learn from and others to test on"),
            (replace(whole, reference=real.only("val")), "real pairs to learn from and others to test on"),
        ):
            with pytest.raises(UsageError, match=f"masks needs {words}"):
                choose(["masks"], inputs)
        both = replace(whole, reference=real.only("val"), training=real.only("train"))
        assert MASKS.lacking(both) == "", "two sets do what one with two splits does"
        assert "masks" not in choose(None, replace(whole, stored=real.only("val"))), "real images obey no mask"


def test_masks_of_other_classes_are_refused(tmp_path: Path, reference: Path) -> None:
    samples = generated(tmp_path / "s.h5", made(4, seed=9), names=("background", "polyp"))
    with pytest.raises(DataError, match=r"masks of the set have other classes .* 1 polyp, .* 1 disc; preprocess both"):
        evaluate(samples, reference)
