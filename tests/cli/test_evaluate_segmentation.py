"""Masks and utility by the command: in the JSON and in the page, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medgen.cli.app import run
from tests.unit.evaluation.made_pairs import SIDE, made, write

QUICK = [
    f"--set={table}.segmenter.{name}={value}"
    for table in ("masks", "utility")
    for name, value in (("steps", 10), ("width", 4), ("side", SIDE))
]


@pytest.fixture
def sets(tmp_path: Path) -> tuple[str, str]:
    """12 generated pairs, and 20 real ones in two splits."""
    samples = write(tmp_path / "samples.h5", made(12, seed=1), ["none"] * 12, synthetic="generated")
    return str(samples), str(write(tmp_path / "real.h5", made(20, seed=2), ["train"] * 12 + ["test"] * 8))


def test_both_are_in_the_numbers_and_in_the_page(sets: tuple[str, str], tmp_path: Path) -> None:
    samples, real = sets
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.html"
    asked = ["--reference", real, "--metrics", "masks,utility", "--utility-seeds", "2"]
    assert run(["evaluate", samples, *asked, *QUICK, "-o", str(numbers), "--report", str(page)]) == 0
    told = json.loads(numbers.read_text())
    assert told["options"]["utility"]["seeds"] == 2
    assert told["options"]["masks"]["segmenter"]["steps"] == 10
    (found,) = told["sets"]
    assert found["masks"]["samples"]["images"] == 12
    assert set(found["utility"]["arms"]) == {"real", "mixed", "synthetic_first", "copies"}
    text = page.read_text()
    for words in (
        "masks obeyed worst",
        "what a segmenter learns",
        "copies of them, mixed",
        "mask present, nothing found",
    ):
        assert words in text.lower()
    assert text.count("data:image/png") >= 2 * 3 * 4, "mask, image and what was found"


def test_real_images_are_not_held_against_masks_unasked(sets: tuple[str, str], tmp_path: Path) -> None:
    """Images that no mask was made into show what they show; and utility takes minutes."""
    samples, real = sets
    numbers = tmp_path / "numbers.json"
    assert run(["evaluate", samples, "--reference", real, *QUICK, "-o", str(numbers)]) == 0
    assert {"masks", "fidelity"} <= set(json.loads(numbers.read_text())["sets"][0])
    assert "utility" not in json.loads(numbers.read_text())["sets"][0]
    arguments = ["evaluate", real, "--split", "test", "--reference", real, *QUICK, "-o", str(numbers), "--force"]
    assert run(arguments) == 0
    assert "masks" not in json.loads(numbers.read_text())["sets"][0]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (["--utility-seeds", "1"], 78, "one training cannot tell a gain from luck; give 2 or more"),
        (["--reference-split", "test"], 2, "utility needs real pairs to learn from and others to test on"),
        (["--set", "utility.segmenter.width=10"], 78, "width = 10: expected a multiple of 4"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    change: list[str], status: int, words: str, sets: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    samples, real = sets
    assert run(["evaluate", samples, "--reference", real, "--metrics", "utility", *change]) == status
    assert words in " ".join(capsys.readouterr().err.split())
