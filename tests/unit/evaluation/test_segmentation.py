"""The segmenter: its views keep image and mask together, it learns, and it reads pairs as they are stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medgen.artifacts.sets import open_set
from medgen.config import convert
from medgen.errors import ConfigError, DataError
from medgen.evaluation.features.features import Extractor, FeatureBank
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.masks import metric as masks
from medgen.evaluation.masks.declaration import MasksOptions
from medgen.evaluation.segmentation.augment import augment, transforms
from medgen.evaluation.segmentation.options import SegmenterOptions
from medgen.evaluation.segmentation.overlap import agreement_of
from medgen.evaluation.segmentation.pairs import Pairs, read_pairs, seen_size
from medgen.evaluation.segmentation.segmenting import loss_of, segment, train
from medgen.evaluation.utility import metric as utility
from medgen.evaluation.utility.declaration import UtilityOptions
from medgen.feedback.verification import masks as verification
from medgen.nets.segmenter import Segmenter
from tests.unit.evaluation.made_pairs import GREY, SIDE, Made, disc, made, silent, write

STILL = SegmenterOptions(flips="none", rotation=0, scale=0, shift=0, gain=0)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pairs_of(one: Made) -> Pairs:
    images, labels = torch.from_numpy(GREY.normalized(one.images)), torch.from_numpy(one.masks[:, 0])
    rows = np.arange(len(images))
    return Pairs(images, labels, rows, rows, tuple(map(str, rows)), np.ones((len(rows), 2)), None)


def test_views_move_image_and_mask_in_lockstep() -> None:
    masks = torch.from_numpy(made(16, seed=1).masks[:, 0])
    images = masks[:, None].float().expand(-1, 3, -1, -1) * 2 - 1
    options = SegmenterOptions(flips="both", rotation=45, scale=0.3, shift=0.2, gain=0)
    views, labels = augment(images, masks, options, random())
    assert views.shape == images.shape
    assert labels.dtype == torch.uint8
    disagree = ((views[:, 0] > 0) != (labels > 0)).float().mean(dim=(1, 2))
    assert float(disagree.max()) < 0.04, "only pixels at the boundary, where one is smooth and the other is not"
    assert float(((labels > 0) != (masks > 0)).float().mean()) > 0.05, "and they did move"


def test_without_any_change_a_view_is_the_image() -> None:
    pair = pairs_of(made(4, seed=2))
    views, labels = augment(pair.images, pair.labels, STILL, random())
    torch.testing.assert_close(views, pair.images, atol=1e-5, rtol=0)
    assert torch.equal(labels, pair.labels)


@pytest.mark.parametrize(("flips", "axis"), [("left-right", -1), ("up-down", -2)])
def test_only_the_flips_that_are_allowed_happen(flips: str, axis: int) -> None:
    pair = pairs_of(made(40, seed=3))
    options = convert(SegmenterOptions, {"flips": flips, "rotation": 0, "scale": 0, "shift": 0, "gain": 0}, "")
    views, labels = augment(pair.images, pair.labels, options, random())
    flipped = 0
    for view, label, image, mask in zip(views, labels, pair.images, pair.labels, strict=True):
        mirrored = torch.allclose(view, image.flip(axis), atol=1e-5)
        assert mirrored or torch.allclose(view, image, atol=1e-5)
        assert torch.equal(label, mask.flip(axis) if mirrored else mask)
        flipped += mirrored
    assert 10 < flipped < 30


def test_classes_named_by_their_side_are_not_mirrored_to_the_other() -> None:
    """Two discs alike, left and right: only where they lie tells which is which."""
    shifts = np.random.default_rng(0).uniform(-2, 2, (60, 2, 2))
    centres = np.array([(16, 8), (16, 24)]) + shifts
    labels = np.stack([sum((k + 1) * disc(SIDE, tuple(at), 5) for k, at in enumerate(both)) for both in centres])
    images = torch.from_numpy(labels > 0).float()[:, None] - 0.5
    rows = np.arange(60)
    pair = Pairs(
        images, torch.from_numpy(labels.astype(np.uint8)), rows, rows, tuple(map(str, rows)), np.ones((60, 2)), None
    )
    options = SegmenterOptions(side=SIDE, steps=100).suited_to(("background", "Lung_L", "Lung_R"))
    network = train(pair[rows[:40]], 3, options, seed=0)
    held_out = pair[rows[40:]]
    assert agreement_of(segment(network, held_out.images), held_out, 3, in_mm=False).dice.mean() > 0.9


class Trained(Exception):
    """Tells with which options."""


def test_whoever_trains_a_segmenter_asks_for_the_names_of_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pairs: Pairs, classes: int, options: SegmenterOptions, **more: Any) -> None:
        raise Trained(options.flips)

    real = write(tmp_path / "real.h5", made(6, seed=1), ["train"] * 3 + ["val"] * 3, names=("background", "left lung"))
    with open_set(real, random_access=True) as stored:
        inputs = Inputs(stored, FeatureBank(Extractor("none", "", lambda x: x)), silent, reference=stored)
        callers: dict[Any, Callable[[], object]] = {
            masks: lambda: masks.measure(inputs, MasksOptions()),
            utility: lambda: utility.measure(inputs, UtilityOptions()),
            verification: lambda: verification.MaskCheck.learned(
                stored, SegmenterOptions(), 0, torch.device("cpu"), silent
            ),
        }
        for module, call in callers.items():
            monkeypatch.setattr(module, "train", refuse)
            with pytest.raises(Trained, match="none"):
                call()


@pytest.mark.parametrize(
    ("names", "flips"),
    [
        (("background", "disc", "bright spot", "vertebra L1", "RV"), ["left-right", "both", "up-down"]),
        *((("background", name), ["none", "up-down", "up-down"]) for name in ("left lung", "LungRight", "KIDNEY_R")),
    ],
)
def test_a_side_in_the_name_of_a_class_is_recognised(names: tuple[str, ...], flips: list[str]) -> None:
    given = (convert(SegmenterOptions, {"flips": one}, "") for one in ("left-right", "both", "up-down"))
    assert [one.suited_to(names).flips for one in given] == flips


def test_a_rotation_keeps_shapes_in_an_oblong_image() -> None:
    """Turned by any angle, a disc in a wide image stays a disc."""
    wide = torch.zeros(1, 1, 40, 80)
    wide[0, 0, :, 20:60] = torch.from_numpy(disc(40, (19.5, 19.5), 12)).float()
    turned = SegmenterOptions(flips="none", rotation=90, scale=0, shift=0, gain=0)
    maps = transforms(200, 0.5, turned, random())
    lengths = np.linalg.det(maps[:, :, :2])
    np.testing.assert_allclose(lengths, 1.0, atol=1e-12)
    grid = F.affine_grid(torch.from_numpy(maps[:1]).float(), [1, 1, 40, 80], align_corners=False)
    view = F.grid_sample(wide, grid, align_corners=False)[0, 0] > 0.5
    down, across = (int(view.any(dim=axis).sum()) for axis in (1, 0))
    assert abs(down - 25) <= 2
    assert abs(across - 25) <= 2


def test_it_learns_to_find_discs() -> None:
    options = SegmenterOptions(side=SIDE, width=8, steps=100, batch_size=8)
    network = train(pairs_of(made(40, seed=4)), 2, options, seed=0)
    new = pairs_of(made(40, seed=5, empty=10))
    agreed = agreement_of(segment(network, new.images), new, 2, in_mm=False)
    assert np.nanmean(agreed.overall("dice")) > 0.85
    assert np.nanmean(agreed.overall("false_positive")) <= 0.2


def test_the_same_seed_trains_the_same_network_and_another_does_not() -> None:
    options = SegmenterOptions(side=SIDE, width=4, steps=10)
    pair = pairs_of(made(8, seed=6))
    first, again, other = (train(pair, 2, options, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(pairs_of(made(4, seed=7)), 2, SegmenterOptions(side=SIDE, width=4, steps=10), seed=0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 30, 45), (2, 17, 64)])
def test_logits_have_the_size_of_the_image(shape: tuple[int, int, int]) -> None:
    assert Segmenter(shape[0], 4, 8)(torch.zeros(2, *shape)).shape == (2, 4, *shape[1:])


def test_the_loss_of_a_perfect_guess_is_zero_and_of_an_undecided_one_is_known() -> None:
    labels = torch.zeros(1, 10, 10, dtype=torch.uint8)
    labels[:, :5] = 1
    certain = F.one_hot(labels.long(), 2).movedim(-1, 1).float() * 100
    assert float(loss_of(certain, labels)) == pytest.approx(0.0, abs=1e-6)
    # Half a chance everywhere: Dice (2 * 25 + 1) / (50 + 50 + 1), cross-entropy ln 2.
    undecided = float(loss_of(torch.zeros(1, 2, 10, 10), labels))
    assert undecided == pytest.approx(1 - 51 / 101 + math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("stored", "seen"), [((64, 64), (64, 64)), ((30, 20), (30, 20)), ((288, 384), (48, 64)), ((1000, 10), (64, 1))]
)
def test_images_are_seen_no_larger_than_the_side_and_never_enlarged(
    stored: tuple[int, int], seen: tuple[int, int]
) -> None:
    assert seen_size(*stored, 64) == seen


def test_pairs_are_read_smaller_and_know_how_large_a_pixel_is(tmp_path: Path) -> None:
    one = made(3, seed=8)
    path = write(tmp_path / "a.h5", one, ["train"] * 3, spacing=(5.0, 0.5, 0.8))
    with open_set(path, random_access=True) as stored:
        pairs = read_pairs(stored, np.array([2, 0]), SIDE // 2)
    assert pairs.keys == ("a2", "a0")
    expected = F.avg_pool2d(torch.from_numpy(GREY.normalized(one.images[[2, 0]])), 2)
    torch.testing.assert_close(pairs.images, expected)
    assert set(pairs.labels.unique().tolist()) == {0, 1}
    assert float(pairs.labels.float().mean()) == pytest.approx(float(one.masks[[2, 0]].mean()), rel=0.2)
    assert pairs.spacing is not None
    np.testing.assert_allclose(pairs.pixels * pairs.spacing, [[1.0, 1.6]] * 2)
    with open_set(write(tmp_path / "b.h5", one, ["train"] * 3), random_access=True) as stored:
        assert read_pairs(stored, np.arange(3), SIDE).spacing is None


def test_values_that_are_no_class_are_named_and_those_that_are_no_number_left_out(tmp_path: Path) -> None:
    one = made(3, seed=9)
    one.masks[1, 0, 0, 0] = 7
    with (
        open_set(write(tmp_path / "a.h5", one, ["train"] * 3, names=()), random_access=True) as stored,
        pytest.raises(DataError, match=r"the mask of a1 holds 7, which is not a class; the classes are 0 background"),
    ):
        read_pairs(stored, np.arange(3), SIDE)
    broken = Made(one.images.astype(np.float32), one.masks * 0)
    broken.images[2, 0, 3, 3] = np.nan
    with open_set(write(tmp_path / "b.h5", broken, ["train"] * 3), random_access=True) as stored:
        pairs = read_pairs(stored, np.arange(3), SIDE)
        assert (pairs.keys, pairs.slices.tolist()) == (("b0", "b1"), [0, 1])
        with pytest.raises(DataError, match="all images hold NaN or infinity"):
            read_pairs(stored, np.array([2]), SIDE)


def test_a_width_that_cannot_be_normalised_is_refused() -> None:
    with pytest.raises(ConfigError, match="width = 10: expected a multiple of 4"):
        SegmenterOptions(width=10)
