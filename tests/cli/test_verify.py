"""`select --verify` and `generate --until verified`: what images show, measured against what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from scipy import ndimage

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import GENERATED, Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.stored import StoredSet
from medgen.evaluation.conditioning.nodules import Spot
from medgen.evaluation.conditioning.rule import Measured, NoduleRule
from medgen.feedback.verification.nodules import NoduleCheck

Done = Callable[..., tuple[int, str]]
SIDE = 32


def write_pairs(path: Path, count: int, *, wrong: int = 0, seed: int = 0) -> Path:
    """Bright discs and their masks, real (train and val) or, where some are `wrong`, generated: these lie elsewhere."""
    random = np.random.default_rng(seed)
    header = SetHeader("image", derive("x", {"wrong": wrong}, sources="s"), Intensity(), mask_names=("none", "disc"))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    with create_set(path, header) as writer:
        for index in range(count):
            row, column = random.uniform(8, 24, 2)
            disc = (rows - row) ** 2 + (columns - column) ** 2 < 36
            shown = np.roll(disc, SIDE // 2, axis=(0, 1)) if index < wrong else disc
            image = ndimage.gaussian_filter(-800 + 900.0 * shown, 1) + random.normal(0, 30, disc.shape)
            arrays = {"image": image[None, None].astype(np.int16), "mask": disc[None, None].astype(np.uint8)}
            split = "none" if wrong else ("train", "train", "val")[index % 3]
            writer.write(Case(f"case-{index}", arrays, split, synthetic=GENERATED if wrong else ""))
    return path


def test_images_that_leave_their_masks_do_not_pass(here: Done, tmp_path: Path) -> None:
    real = write_pairs(tmp_path / "real.h5", 30)
    samples = write_pairs(tmp_path / "samples.h5", 10, wrong=4, seed=1)
    words = ["select", samples, "--verify", "--reference", real, "--set", "segmenter.steps=120"]
    status, told = here(*words, "-o", tmp_path / "right.h5", "--report", tmp_path / "report.json")
    assert status == 0, told
    with open_set(tmp_path / "right.h5", random_access=True) as stored:
        kept = {row.id for row in stored.cases}
    assert kept <= {f"case-{index}" for index in range(4, 10)}
    assert len(kept) >= 4
    report = json.loads((tmp_path / "report.json").read_text())
    dice = [one["findings"][0]["differs"]["dice"] for one in report["cases"]]
    assert max(dice[:4]) < 0.3 < min(dice[4:])
    assert report["passed"] == len(kept)
    assert report["acceptance"] == len(kept) / 10
    assert 0.5 < report["checks"][0]["least_dice"] <= report["checks"][0]["dice_of_real"] + 0.05


def test_verify_needs_real_pairs_and_something_to_verify(here: Done, tiny: Path, tmp_path: Path) -> None:
    samples, out = write_pairs(tmp_path / "samples.h5", 3, wrong=1), tmp_path / "out.h5"
    status, told = here("select", samples, "--verify", "-o", out)
    assert status == 2
    assert "--reference" in told
    status, told = here("select", samples, "--verify", "--reference", samples, "-o", out)
    assert status == 65
    assert "split train" in told
    status, told = here("generate", tiny / "pixels.safetensors", "--until", "verified", "-o", out)
    assert status == 2
    words = ["generate", tiny / "pixels.safetensors", "--steps", "2", "--until", "verified"]
    status, told = here(*words, "--reference", tiny / "images.h5", "-o", out)
    assert status == 65
    assert "nothing to verify" in told
    assert not out.exists()


def test_a_nodule_passes_where_it_was_asked_and_of_its_size() -> None:
    check = NoduleCheck(NoduleRule(), {})
    spot = Spot(x=0.31, y=0.5, scale=0.1, contrast=800.0, size=0.1)
    asked = np.array([1.0, 0.3, 0.5, 0.1])
    right = check.finding([spot], asked)
    assert right.passes
    assert right.differs == pytest.approx({"place": 0.01, "size": 0.0}, abs=1e-6)
    elsewhere = check.finding([spot], np.array([1.0, 0.7, 0.5, 0.1]))
    assert not elsewhere.passes
    assert elsewhere.differs["place"] == pytest.approx(0.39)
    assert not check.finding([spot], np.array([1.0, 0.3, 0.5, 0.25])).passes
    assert not check.finding([spot], np.zeros(4)).passes
    assert check.finding([], np.zeros(4)).passes
    assert not check.finding([], asked).passes


def test_a_rule_tells_how_many_nodules_it_overlooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 nodules half are as faint as what is seen in healthy images, and so pass as none."""
    strong, faint = (Spot(x=0.3, y=0.5, scale=0.1, contrast=contrast, size=0.1) for contrast in (800.0, 30.0))
    asked = np.array([[1.0, 0.3, 0.5, 0.1]] * 40 + [[0.0] * 4] * 40)
    known = Measured([[strong], [faint]] * 20 + [[faint]] * 40, asked, np.arange(80), np.full(80, 300.0))
    monkeypatch.setattr("medgen.feedback.verification.nodules.observe", lambda stored, advance: known[np.arange(80)])
    reference = SimpleNamespace(header=SimpleNamespace(vector_fields=("has_nodule", "x", "y", "size")))
    check = NoduleCheck.learned(cast(StoredSet, reference), 0)
    assert check.trust["empty_that_pass_as_empty"]["value"] == 1
    assert check.trust["known_that_pass_as_empty"]["value"] == pytest.approx(0.5, abs=0.2)
    assert "100 % without one pass as empty" in check.told()


def test_generate_gives_up_what_no_try_verifies(here: Done, tiny: Path, tmp_path: Path) -> None:
    """An untrained model shows no nodule, so that samples without one pass at once, and those with one never."""
    rows = "has_nodule,x,y,size,malignancy,texture\n0,0,0,0,0,0\n1,0.3,0.5,0.2,0.5,0.5\n0,0,0,0,0,0\n"
    (tmp_path / "asked.csv").write_text(rows)
    words = ["generate", tiny / "pixels.safetensors", "--conditions", tmp_path / "asked.csv", "--steps", "2"]
    until = ["--until", "verified", "--tries", "3", "--reference", tiny / "images.h5"]
    assert here(*words, "-o", tmp_path / "plain.h5")[0] == 0
    status, told = here(*words, *until, "-o", tmp_path / "right.h5", "--report", tmp_path / "report.json")
    assert status == 1, told
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["gave_up"] == ["sample-000001"]
    assert report["verified"]["measured"] == 5
    assert report["verified"]["acceptance"] == pytest.approx(2 / 5)
    with open_set(tmp_path / "plain.h5") as plain, open_set(tmp_path / "right.h5") as right:
        first = {case.id: case["image"] for case in plain}
        kept = {case.id: case["image"] for case in right}
    assert list(kept) == ["sample-000000", "sample-000002"]
    assert all(np.array_equal(kept[name], first[name]) for name in kept)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_image_that_is_no_image_does_not_pass_as_empty(here: Done, tmp_path: Path, broken: float) -> None:
    real, samples, out = write_pairs(tmp_path / "real.h5", 3), tmp_path / "samples.h5", tmp_path / "out.h5"
    header = SetHeader(
        "image", derive("x", {}, sources="s"), Intensity(), vector_fields=("has_nodule", "x", "y", "size")
    )
    with create_set(samples, header) as writer:
        for index in range(3):
            image = np.full((1, 1, SIDE, SIDE), -800.0, np.float32)
            image[0, 0, 3, 3] = broken if index == 0 else -800
            asked = np.array([[0, broken if index == 1 else 0, 0, 0]], np.float32)
            writer.write(Case(f"case-{index}", {"image": image, "vector": asked}, synthetic=GENERATED))
    words = ["select", samples, "--verify", "--reference", real, "-o", out]
    status, told = here(*words)
    assert (status, "case case-0: the image or its request holds NaN or infinity" in told) == (65, True)
    status, told = here(*words, "--keep-going", "--report", tmp_path / "report.json")
    assert status == 1, told
    with open_set(out, random_access=True) as stored:
        assert [row.id for row in stored.cases] == ["case-2"]
    assert "NaN" not in (tmp_path / "report.json").read_text()
