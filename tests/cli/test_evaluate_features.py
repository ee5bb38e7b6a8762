"""Fidelity with other features and in groups, and copies of training images, through the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from medgen.cli.app import run
from medgen.nets.perception.inception import InceptionV3

MakeSet = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def measured(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict[str, Any], str]:
    """The first set's results, and what was said."""
    assert run(["evaluate", *map(str, arguments)]) == 0
    captured = capfd.readouterr()
    return json.loads(captured.out)["sets"][0], captured.err


def test_copies_of_training_images_are_counted_and_drawn(
    make_set: MakeSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    known = make_set("known.h5", count=30, depth=1, size=32, seed=1)  # every third case is for validation
    held_out = make_set("held_out.h5", count=30, depth=1, size=32, seed=2)
    sheet = tmp_path / "pairs.png"
    call = (known, "--training", known, "--reference", held_out, "--metrics", "memorization", "--pairs", sheet)
    # The ids of the two sets are the same, so the reference's training split counts as training cases.
    assert run(["evaluate", *map(str, call), "--reference-split", "train"]) == 65
    assert "the reference holds training cases only" in capfd.readouterr().err
    result, said = measured(capfd, *call, "--reference-split", "val", "--set", "memorization.pairs=25")
    found = result["memorization"]
    assert found["training"] == {"images": 20, "cases": 20}
    assert found["copies"]["count"] == 20
    assert found["held_out"]["cases"] == 10
    exact = [pair for pair in found["pairs"] if pair["copy"]]
    assert [pair["image"] for pair in exact] == [pair["nearest"] for pair in exact]
    assert "copies of training images" in said
    with Image.open(sheet) as image:
        assert image.width > image.height / 8
    assert run(["evaluate", *map(str, call), "--reference-split", "val"]) == 73  # the sheet is there


def test_a_sheet_of_pairs_needs_training_images(
    make_set: MakeSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_set(count=4, size=32)
    call = [
        "evaluate",
        str(path),
        "--reference",
        str(path),
        "--metrics",
        "fidelity",
        "--pairs",
        str(tmp_path / "p.png"),
    ]
    assert run(call) == 2
    assert "--pairs shows what memorization found: give --training" in capfd.readouterr().err
    assert not (tmp_path / "p.png").exists()


def test_fidelity_in_groups(make_set: MakeSet, capfd: pytest.CaptureFixture[str]) -> None:
    ours, real = make_set("a.h5", count=12, size=32, seed=1), make_set("b.h5", count=12, size=32, seed=2)
    result, said = measured(capfd, ours, "--reference", real, "--metrics", "fidelity", "--by", "split,field0")
    groups = result["fidelity"]["by"]
    assert list(groups) == ["split", "field0"]
    assert {name: part["samples"] for name, part in groups["split"].items()} == {"train": 16, "val": 8}
    assert sum(part["reference_samples"] for part in groups["field0"].values()) == 24
    assert groups["split"]["train"]["frechet_distance"]["value"] > 0
    assert "fidelity by split" in said
    assert run(["evaluate", str(ours), "--reference", str(real), "--by", "shape"]) == 2
    assert "--by shape" in capfd.readouterr().err


def test_only_inception_features_make_fid_kid_and_is(
    make_set: MakeSet, tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_file(InceptionV3().state_dict(), tmp_path / "inception.safetensors")
    ours, real = (
        make_set("a.h5", count=4, depth=1, size=32, seed=1),
        make_set("b.h5", count=4, depth=1, size=32, seed=2),
    )
    call = (ours, "--reference", real, "--metrics", "fidelity", "--features")
    inception, said = measured(capfd, *call, tmp_path / "inception.safetensors")
    figures = inception["fidelity"]
    assert figures["extractor"]["name"] == "inception-v3"
    assert figures["extractor"]["features"] == 2048
    assert figures["fid"]["value"] > 0
    assert figures["kid"]["subset_size"] == 2
    assert figures["inception_score"]["value"] >= 1
    for name in ("FID", "KID", "Inception Score"):
        assert name in said
    encoder, said = measured(capfd, *call, tiny / "vae.safetensors")
    figures = encoder["fidelity"]
    assert figures["extractor"]["name"] == "vae"
    assert figures["frechet_distance"]["value"] > 0
    assert "FID" not in said
    assert "Frechet distance" in said


def test_extractors_that_cannot_be_had(
    make_set: MakeSet, tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(make_set(count=4, size=32))
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    for features, status, reason in (
        (tmp_path / "weights.pth", 65, "convert it once"),
        (tiny / "model.safetensors", 65, "is a model of kind 'denoiser'"),
        (tiny / "images.h5", 65, "images.h5"),
    ):
        assert run(["evaluate", path, "--reference", path, "--features", str(features)]) == status
        assert reason in capfd.readouterr().err.splitlines()[-1]
