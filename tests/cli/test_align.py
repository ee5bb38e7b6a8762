"""`align --verify`: how many images show what was asked, before and after, measured as `select --verify` does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medgen.artifacts.model_file import open_model
from medgen.artifacts.sets import open_set
from medgen.cli.app import run
from medgen.imaging.labels.ratings import Rating, RatingsFile, set_name
from medgen.training.data.step import mix

Done = Callable[..., tuple[int, str]]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Done:
    """Run a command line in this process: its exit status, and what it says."""

    def command(*words: object) -> tuple[int, str]:
        status = run([str(word) for word in words])
        return status, capsys.readouterr().err

    return command


def read(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_what_is_verified_before_is_what_select_finds_and_a_chain_keeps_its_first_distance(
    here: Done, tiny: Path, tmp_path: Path
) -> None:
    """An untrained model shows no nodule, so that those images pass of which none is asked."""
    model, real, asked = tiny / "pixels.safetensors", tiny / "images.h5", tmp_path / "asked.csv"
    rows = ["0,0,0,0,0,0", "1,0.3,0.5,0.2,0.5,0.5", "0,0,0,0,0,0", "0,0,0,0,0,0"]
    asked.write_text("\n".join(["has_nodule,x,y,size,malignancy,texture", *rows]) + "\n")
    drawn = ["generate", model, "--steps", "3", "--guidance", "1", "--seed", mix(0, "check")]
    assert here(*drawn, "--conditions", asked, "-o", tmp_path / "drawn.h5")[0] == 0
    found = ["select", tmp_path / "drawn.h5", "--verify", "--reference", real, "--report", tmp_path / "found.json"]
    assert here(*found, "-o", tmp_path / "passed.h5")[0] == 0
    share = read(tmp_path / "found.json")["acceptance"]
    assert 0 < share < 1

    rated = tmp_path / "rated.h5"
    assert here("generate", model, "--steps", "2", "--vector", "has_nodule=1", "-n", "2", "-o", rated)[0] == 0
    with open_set(rated, random_access=True) as stored, RatingsFile(tmp_path / "ratings.csv") as file:
        for grade, row in zip((1.0, 5.0), stored.cases, strict=True):
            file.add(Rating(set_name(stored.tail.digest), "anna", row.id, "", "realism", grade))
    words: list[object] = ["--ratings", tmp_path / "ratings.csv", "--method", "dpo", "--reference", real, "--verify"]
    words += ["--conditions", asked, "--max-rise", "100", "--sampling-steps", "3", "--set", "check_images=4"]
    words += ["--set", "loop.steps=1", "--set", "loop.batch_size=2", "--set", "group=2"]
    figures = []
    for begin, name in ((model, "once"), (tmp_path / "once.safetensors", "twice")):
        report = tmp_path / f"{name}.json"
        status, told = here("align", begin, rated, *words, "-o", tmp_path / f"{name}.safetensors", "--report", report)
        assert status == 0, told
        assert f"{read(report)['verified_before']:.0%} show what was asked" in told
        figures.append(open_model(tmp_path / f"{name}.safetensors").facts)
    once, twice = figures
    assert once["verified_before"] == share
    assert read(report)["checks"][0]["rule"] == "fitted to the reference"
    assert once["verified_after"] == pytest.approx(twice["verified_before"])
    assert twice["frechet_before"] == pytest.approx(once["frechet_after"], rel=1e-3)
    assert twice["frechet_first"] == once["frechet_first"] == once["frechet_before"] != twice["frechet_before"]
