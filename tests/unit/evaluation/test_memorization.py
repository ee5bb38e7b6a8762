from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.features.extractors import builtin_extractor
from medgen.evaluation.features.features import FeatureBank
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.memorization.declaration import MEMORIZATION, MemorizationOptions
from medgen.evaluation.memorization.metric import learn_rule, measure
from medgen.evaluation.memorization.nearest_images import FLIPS, Matches, collect, nearest_images
from medgen.evaluation.section import Section
from medgen.phantoms.chest.anatomy import ChestAnatomy
from medgen.phantoms.primitives import Grid
from medgen.reporting import Silent

LUNG = Intensity()
Images = npt.NDArray[np.float32]


def write(path: Path, images: Images, prefix: str, slices_a_case: int = 1, split: str = "train") -> Path:
    """Images (N, 1, H, W) in [-1, 1], as a set of cases `prefix0`, `prefix1`, ..."""
    stored = LUNG.stored(images, np.int16)
    header = SetHeader("image", derive("preprocess", {"name": prefix}), intensity=LUNG)
    with create_set(path, header, force=True) as writer:
        for case in range(len(images) // slices_a_case):
            rows = slice(case * slices_a_case, (case + 1) * slices_a_case)
            writer.write(Case(f"{prefix}{case}", {"image": stored[rows]}, split))
    return path


@pytest.fixture(scope="module")
def chests() -> Images:
    """100 procedural chests, two slices each, 64 x 64, (200, 1, 64, 64)."""
    images = []
    for number in range(100):
        random = np.random.default_rng([5, number])
        anatomy = ChestAnatomy.draw(random)
        pixel = anatomy.shapes.field_of_view(random.uniform(8.0, 40.0)) / 64
        grid = Grid(64, pixel, random.normal(0, 4), 8 + random.normal(0, 4))
        for height in random.uniform(-60, 10, 2):
            images.append(anatomy.plane(height, grid)[0] + random.normal(0, 20, (64, 64)))
    return LUNG.normalized(np.stack(images)[:, None])


@pytest.fixture(scope="module")
def sets(chests: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training cases, 20 held out, 20 as new as they."""
    folder = tmp_path_factory.mktemp("sets")
    write(folder / "training.h5", chests[:120], "known", 2)
    write(folder / "reference.h5", chests[120:160], "held-out", 2, "test")
    write(folder / "new.h5", chests[160:], "new", 2)
    return folder


@functools.cache
def shared_bank() -> FeatureBank:
    """Keeps the features of the training images over all tests."""
    return FeatureBank(builtin_extractor())


def evaluate(samples: Path, sets: Path, **options: object) -> Section:
    bank = shared_bank()
    with contextlib.ExitStack() as stack:

        def opened(path: Path) -> StoredSet:
            return stack.enter_context(open_set(path, random_access=True))

        inputs = Inputs(
            opened(samples),
            bank,
            Silent().progress,
            reference=opened(sets / "reference.h5"),
            training=opened(sets / "training.h5"),
        )
        assert MEMORIZATION.lacking(inputs) == ""
        return measure(inputs, MemorizationOptions(**options))  # type: ignore[arg-type]


def shifted(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """What enters at the border repeats it."""
    padded = F.pad(images, (8, 8, 8, 8), mode="replicate")
    return padded[..., 8 - down : 8 - down + images.shape[-2], 8 - right : 8 - right + images.shape[-1]]


def plant(kind: str, images: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    copies = {
        "exact": lambda: images,
        "shifted": lambda: shifted(images, 5, -6),
        "left-right": lambda: images.flip(-1),
        "up-down": lambda: images.flip(-2),
        "both": lambda: images.flip(-1, -2),
        "noise of 35 HU": lambda: images + 0.05 * noise,
        "noise of 70 HU": lambda: images + 0.1 * noise,
        "blurred": lambda: F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1),
        "brighter": lambda: 0.9 * images + 0.05,
        "all at once": lambda: 0.9 * shifted(images.flip(-1), -4, 3) + 0.05 * noise,
    }
    return copies[kind]().clamp(-1, 1)


RATES = {
    "exact": 1.0, "shifted": 1.0, "left-right": 1.0, "up-down": 1.0, "both": 1.0, "noise of 35 HU": 1.0,
    "noise of 70 HU": 1.0, "blurred": 1.0, "brighter": 1.0, "all at once": 1.0,
}  # fmt: skip


CHOSEN = np.arange(0, 120, 10)


@pytest.fixture(scope="module")
def planted(chests: Images, sets: Path) -> Section:
    """What is found of copies of the same training images in every kind, one after the other."""
    originals = torch.from_numpy(chests[CHOSEN])
    copies = torch.cat([plant(kind, originals) for kind in RATES]).numpy()
    return evaluate(write(sets / "copies.h5", copies, "sample"), sets, pairs=len(copies))


@pytest.mark.parametrize("kind", RATES)
def test_planted_copies_are_found_at_the_stated_rate(kind: str, planted: Section) -> None:
    first = list(RATES).index(kind) * len(CHOSEN)
    pairs = {int(pair["image"].removeprefix("sample")): pair for pair in planted.result["pairs"]}
    found = [pairs[first + number] for number in range(len(CHOSEN))]
    assert sum(pair["copy"] for pair in found) >= RATES[kind] * len(CHOSEN)
    right = [pair["nearest"] == f"known{row // 2}/{row % 2}" for pair, row in zip(found, CHOSEN, strict=True)]
    assert sum(right) >= RATES[kind] * len(CHOSEN)
    if kind in FLIPS:
        assert {pair["mirrored"] for pair in found} == {kind}


@pytest.fixture(scope="module")
def honest(sets: Path) -> Section:
    """What is found of new images."""
    return evaluate(sets / "new.h5", sets)


def test_new_images_are_no_copies(honest: Section) -> None:
    section = honest
    assert section.result["copies"]["count"] == 0
    assert section.result["nearer_in_features"]["count"] <= 2
    assert section.result["duplicates"]["count"] == 0
    assert section.result["leaked"] == []
    assert section.result["rule"]["false_alarm_bound"] == pytest.approx(1 / 21)
    ours, theirs = section.result["relative_distance"], section.result["held_out_relative_distance"]
    assert ours["median"] == pytest.approx(theirs["median"], abs=0.1)


def test_copies_among_new_images_are_counted_and_come_first(chests: Images, sets: Path, tmp_path: Path) -> None:
    mixed = np.concatenate([chests[160:190], chests[[4, 9]]])
    section = evaluate(write(tmp_path / "mixed.h5", mixed, "sample"), sets, pairs=5)
    assert section.result["copies"]["count"] == 2
    assert section.result["copies"]["value"] == pytest.approx(2 / 32)
    assert section.result["copies"]["low"] > 0.01
    first = section.result["pairs"][:2]
    assert [(pair["image"], pair["nearest"]) for pair in first] == [("sample30", "known2/0"), ("sample31", "known4/1")]
    assert all(pair["copy"] for pair in first)
    closest, _ = section.galleries
    assert len(closest.rows) == 5
    image, laid, difference = closest.rows[0]
    np.testing.assert_array_equal(image.pixels, laid.pixels)
    assert not difference.pixels.any()
    assert section.scores["relative_distance"].values["sample30"] == pytest.approx(0, abs=1e-6)


def test_the_nearest_image_is_shown_laid_on_the_sample(chests: Images, sets: Path, tmp_path: Path) -> None:
    copy = plant("all at once", torch.from_numpy(chests[4:5])) / 0.9
    samples = np.concatenate([chests[160:163], copy.clamp(-1, 1).numpy()])
    section = evaluate(write(tmp_path / "one.h5", samples, "sample"), sets)
    pair = section.result["pairs"][0]
    assert (pair["image"], pair["nearest"], pair["mirrored"]) == ("sample3", "known2/0", "left-right")
    image, laid, _ = (picture.pixels.astype(int)[8:-8, 8:-8] for picture in section.galleries[0].rows[0])
    assert np.abs(image - laid).mean() < 12  # the noise alone


def test_duplicates_among_the_samples_are_found_even_if_all_are_one(chests: Images, sets: Path, tmp_path: Path) -> None:
    new = chests[160::2]  # an image of each of 20 people
    twice = np.concatenate([new, new[[5, 10]][..., ::-1]])
    section = evaluate(write(tmp_path / "twice.h5", twice, "sample"), sets)
    assert section.result["duplicates"]["count"] == 4
    pairs = {frozenset((pair["image"], pair["nearest"])) for pair in section.result["duplicate_pairs"] if pair["copy"]}
    assert pairs == {frozenset(("sample5", "sample20")), frozenset(("sample10", "sample21"))}
    assert section.result["copies"]["count"] == 0
    collapsed = np.repeat(chests[160:161], 20, axis=0)
    section = evaluate(write(tmp_path / "collapsed.h5", collapsed, "sample"), sets)
    assert section.result["duplicates"]["value"] == 1.0


def test_slices_of_one_sample_are_no_duplicates(chests: Images, sets: Path, tmp_path: Path) -> None:
    volumes = np.repeat(chests[160:180:2], 3, axis=0)  # three equal slices a case
    section = evaluate(write(tmp_path / "volumes.h5", volumes, "volume", 3), sets)
    assert section.result["duplicates"]["count"] == 0
    assert section.result["samples"] == 30
    assert section.result["copies"]["high"] > 0.25  # ten trials, not 30


def test_held_out_images_that_leaked_are_named_and_teach_nothing(
    chests: Images, sets: Path, honest: Section, tmp_path: Path
) -> None:
    leaky = tmp_path / "leaky"
    leaky.mkdir()
    (leaky / "training.h5").write_bytes((sets / "training.h5").read_bytes())
    write(leaky / "reference.h5", np.concatenate([chests[120:160], chests[10:14]]), "held-out", 2, "test")
    found = evaluate(sets / "new.h5", leaky)
    assert found.result["leaked"] == [
        {"held_out": f"held-out{20 + row // 2}/{row % 2}", "training": f"known{5 + row // 2}/{row % 2}"}
        for row in range(4)
    ]
    threshold = honest.result["rule"]["threshold"]
    assert found.result["rule"]["threshold"] == pytest.approx(threshold, rel=0.05)
    assert "4 held-out images are copies of training images" in found.warnings[0]


def test_training_cases_in_the_reference_are_left_out(chests: Images, sets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "same"
    folder.mkdir()
    (folder / "training.h5").write_bytes((sets / "training.h5").read_bytes())
    write(folder / "reference.h5", chests[:80], "known", 2)
    with pytest.raises(DataError, match="holds training cases only"):
        evaluate(sets / "new.h5", folder)


def found(distance: np.ndarray) -> Matches:
    """Images at these relative distances."""
    zero = np.zeros(len(distance), np.int64)
    return Matches(distance, np.ones(len(distance)), zero, zero, np.zeros((len(distance), 2), int), distance)


def test_the_rule_is_a_share_of_the_smallest_honest_distance() -> None:
    spread = np.random.default_rng(0).normal(0.7, 0.05, 500)
    rule = learn_rule(found(spread), MemorizationOptions(margin=0.8))
    assert rule.threshold == pytest.approx(0.8 * spread.min())
    assert not rule.leaked.any()
    rule = learn_rule(found(np.concatenate([spread, np.zeros(100)])), MemorizationOptions())
    assert rule.leaked.sum() == 100  # a sixth of them, and still seen
    assert rule.smallest == pytest.approx(spread.min())
    with pytest.raises(DataError, match="all real images are copies"):
        learn_rule(found(np.zeros(30)), MemorizationOptions())


def test_blocks_of_the_search_do_not_change_what_is_found(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, options = shared_bank(), MemorizationOptions(candidates=3)
    with (
        open_set(sets / "training.h5", random_access=True) as training,
        open_set(sets / "new.h5", random_access=True) as new,
    ):
        known, ours = (collect(one, bank) for one in (training, new))
        whole = nearest_images(ours, known, options)
        monkeypatch.setattr("medgen.evaluation.memorization.nearest_images.BLOCK", 7 * len(known))
        parts = nearest_images(ours, known, options)
        copies = nearest_images(known[np.arange(0, 120, 30)], known, options)
    np.testing.assert_array_equal(whole.row, parts.row)
    np.testing.assert_allclose(whole.distance, parts.distance)
    np.testing.assert_array_equal(whole.feature_distance, parts.feature_distance)
    np.testing.assert_array_equal(copies.row, np.arange(0, 120, 30))
    np.testing.assert_array_equal(copies.feature_distance, 0)
    np.testing.assert_array_equal(copies.distance, 0)


@pytest.mark.parametrize("count", [3, 5, 10, 20])
def test_few_new_images_are_hardly_ever_taken_for_leaked_ones(count: int) -> None:
    """Five spreads of a quartile called a new image leaked in 5 to 24 % of evaluations with so few."""
    random = np.random.default_rng(count)
    claims = sum(
        learn_rule(found(random.normal(1, 0.1, count)), MemorizationOptions()).leaked.any() for _ in range(500)
    )
    assert claims <= 15  # 1 % is meant
    leaky = np.concatenate([random.normal(1, 0.1, count), [0.05]])
    assert learn_rule(found(leaky), MemorizationOptions()).leaked.tolist() == [False] * count + [True]
