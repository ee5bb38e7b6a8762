"""Utility: pairs that fill a gap of the real ones help, copies of these do not, and both are told apart."""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgen.artifacts.sets import open_set
from medgen.errors import ConfigError, DataError
from medgen.evaluation.features.extractors import builtin_extractor
from medgen.evaluation.features.features import FeatureBank
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.intervals import crossed_interval
from medgen.evaluation.section import Section
from medgen.evaluation.segmentation.options import SegmenterOptions
from medgen.evaluation.segmentation.pairs import read_pairs
from medgen.evaluation.utility.arms import ARMS, COPIES, FIRST, MIXED, REAL, pool
from medgen.evaluation.utility.declaration import UtilityOptions
from medgen.evaluation.utility.metric import measure
from tests.unit.evaluation.made_pairs import SIDE, Made, made, silent, write

OPTIONS = UtilityOptions(seeds=2, segmenter=SegmenterOptions(side=SIDE, width=8, steps=100, batch_size=4))
BRIGHT, BOTH = (70.0,), (70.0, -70.0)


@functools.cache
def bank() -> FeatureBank:
    """Keeps the arm of real pairs alone over all tests."""
    return FeatureBank(builtin_extractor())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 real pairs with bright discs to learn from; among the 20 held out, every other disc is dark."""
    known, held_out = made(30, seed=1, contrasts=BRIGHT), made(20, seed=2, contrasts=BOTH)
    both = Made(*(np.concatenate(parts) for parts in zip(known, held_out, strict=True)))
    return write(tmp_path_factory.mktemp("utility") / "real.h5", both, ["train"] * 30 + ["test"] * 20)


def evaluate(samples: Path, reference: Path, options: UtilityOptions = OPTIONS, **more: Any) -> Section:
    with contextlib.ExitStack() as stack:
        stored, real = (stack.enter_context(open_set(path, random_access=True)) for path in (samples, reference))
        return measure(Inputs(stored, bank(), silent, reference=real, **more), options)


def generated(path: Path, pairs: Made) -> Path:
    return write(path, pairs, ["none"] * len(pairs.images), synthetic="generated")


def test_pairs_that_fill_a_gap_of_the_real_ones_help(tmp_path: Path, reference: Path) -> None:
    section = evaluate(generated(tmp_path / "s.h5", made(30, seed=3, contrasts=(-70.0,))), reference)
    result = section.result
    arms = result["arms"]
    assert set(arms) == set(ARMS)
    assert arms[REAL]["dice"]["value"] < 0.65, "dark discs were never seen"
    assert arms[MIXED]["gain"]["value"] > 0.2
    assert arms[MIXED]["gain"]["low"] > 0
    assert arms[MIXED]["gain"]["value"] == pytest.approx(arms[MIXED]["dice"]["value"] - arms[REAL]["dice"]["value"])
    assert arms[MIXED]["gain_over_copies"]["value"] > 0.2
    assert abs(arms[COPIES]["gain"]["value"]) < 0.1
    assert len(arms[MIXED]["dice_by_seed"]) == 2
    assert np.mean(arms[MIXED]["dice_by_seed"]) == pytest.approx(arms[MIXED]["dice"]["value"])
    assert result["copies_among_synthetic"]["share"]["count"] == 0
    assert result["pairs"] == {"real": 30, "synthetic": 30, "held_out": 20}
    assert set(section.scores["dice_mixed"].values) == {f"real{number}" for number in range(30, 50)}
    json.dumps(result, allow_nan=False)


def test_copies_of_the_real_pairs_do_not_help_and_are_named(tmp_path: Path, reference: Path) -> None:
    section = evaluate(generated(tmp_path / "s.h5", made(30, seed=1, contrasts=BRIGHT)), reference)
    arms = section.result["arms"]
    assert abs(arms[MIXED]["gain"]["value"]) < 0.1
    assert abs(arms[MIXED]["gain_over_copies"]["value"]) < 0.1
    assert section.result["copies_among_synthetic"]["share"]["count"] == 30
    assert any("30 of the 30 synthetic images are copies of training images" in one for one in section.warnings)


def test_it_is_told_as_a_page_shows_it(tmp_path: Path, reference: Path) -> None:
    options = UtilityOptions(seeds=2, segmenter=SegmenterOptions(side=SIDE, width=4, steps=10))
    section = evaluate(generated(tmp_path / "s.h5", made(10, seed=4)), reference, options)
    again = evaluate(tmp_path / "s.h5", reference, options)
    assert section.result == again.result
    assert [row[0] for row in section.tables[0].rows] == list(ARMS.values())
    first = section.galleries[0].rows[0]
    assert [one.caption.partition(", Dice")[0] for one in first] == ["mask", "image", *ARMS.values()]
    other = evaluate(tmp_path / "s.h5", reference, options, seed=1)
    assert section.result["arms"] != other.result["arms"]


def test_all_arms_see_the_same_real_pairs_and_as_many_batches(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", made(12, seed=5), ["train"] * 12)
    with open_set(path, random_access=True) as stored:
        real, synthetic = (read_pairs(stored, np.arange(*ends), SIDE) for ends in ((0, 8), (8, 12)))
    every = pool(real, synthetic, seed=0)
    assert len(every.pairs) == 8 + 4 + 4
    batches = {
        arm: [every.draw(arm, 10, 6)(step, np.random.default_rng([1, step])) for step in range(10)] for arm in ARMS
    }
    assert {len(rows) for one in batches.values() for rows in one} == {6}
    known = [set(range(8)), set(range(8, 12)), set(range(12, 16))]
    assert set(np.concatenate(batches[REAL])) <= known[0]
    for arm, others in ((MIXED, known[1]), (COPIES, known[2])):
        for rows, real_rows in zip(batches[arm], batches[REAL], strict=True):
            np.testing.assert_array_equal(rows[1::2], real_rows[1::2])
            assert set(rows[::2]) <= others
    assert set(np.concatenate(batches[FIRST][:5])) <= known[1]
    np.testing.assert_array_equal(batches[FIRST][5:], batches[REAL][5:])
    copies = every.pairs[np.arange(12, 16)]
    distance = (copies.images[:, None] - real.images[None]).abs().mean(dim=(2, 3, 4)).min(dim=1)
    assert float(distance.values.max()) < 0.03
    for row, nearest in enumerate(distance.indices.tolist()):
        assert bool((copies.labels[row] == real.labels[nearest]).all())


def test_an_interval_of_seeds_and_cases_holds_the_truth_as_often_as_it_says() -> None:
    """True mean 0, seeds and cases of equal spread; over cases alone it would miss half of the time."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        values = random.normal(0, 1, (5, 1)) + random.normal(0, 1, (1, 20)) + random.normal(0, 1, (5, 20))
        found = crossed_interval(values, np.arange(20))
        held += found["low"] <= 0 <= found["high"]
    assert held >= 184


def test_slices_of_one_case_count_as_one_case() -> None:
    values = np.repeat(np.random.default_rng(1).normal(0, 1, (4, 6)), 10, axis=1)
    many, few = (crossed_interval(values[:, ::step], np.repeat(np.arange(6), 10)[::step]) for step in (1, 10))
    assert many["value"] == pytest.approx(few["value"])
    assert many["low"] == pytest.approx(few["low"])


def test_what_cannot_be_compared_is_refused_with_the_remedy(tmp_path: Path, reference: Path) -> None:
    with pytest.raises(ConfigError, match="seeds = 1: one training cannot tell a gain from luck; give 2 or more"):
        UtilityOptions(seeds=1)
    pairs = made(6, seed=6)
    small = generated(tmp_path / "small.h5", Made(pairs.images[..., :16], pairs.masks[..., :16]))
    with pytest.raises(DataError, match=r"images of 16 x 32 where .* training pairs of 32 x 32; preprocess both"):
        evaluate(small, reference)
    nothing = write(tmp_path / "n.h5", made(12, seed=7, empty=6), ["train"] * 6 + ["test"] * 6)
    with pytest.raises(DataError, match="fewer than two held-out real cases have a mask that is not empty"):
        evaluate(generated(tmp_path / "s.h5", pairs), nothing)
    colour = Made(np.repeat(pairs.images, 3, axis=1), pairs.masks)
    with pytest.raises(DataError, match="the set has 3 channels, the reference 1; preprocess both with one --channels"):
        evaluate(generated(tmp_path / "c.h5", colour), reference)
