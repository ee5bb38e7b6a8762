"""Every part of `make gpu` runs at a tiny size on any device, so that it works on the day that a GPU is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .__main__ import PARTS, ROOT

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.gpu", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


def test_without_a_part_the_parts_are_listed() -> None:
    listed = run().stdout.splitlines()
    assert [line.split()[2] for line in listed] == [f"PART={number}" for number in PARTS]


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a CUDA device")
def test_without_a_device_the_reason_is_told() -> None:
    done = run("4")
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


@pytest.mark.parametrize("part", PARTS)
def test_each_part_writes_its_page(part: str, tmp_path: Path) -> None:
    name = PARTS[part][0]
    if name in ("networks", "commands"):
        pytest.importorskip("monai", reason="comes with the bench extra")
    done = run(part, "--tiny", "--device", DEVICE, "-o", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (page,) = tmp_path.glob(f"*-{name}.md")
    text = page.read_text(encoding="utf-8")
    assert "torch" in text.splitlines()[2]
    words = {
        "tests": "passed" if DEVICE == "cuda" else "skipped",
        "networks": "| VAE decode",
        "commands": "uncompressed",
        "presets": "dental-normalizer",
        "interpolation": "| 2 |",
        "nodules": '"conditioning"',
        "pairs": "| 8 samples",
    }
    assert words[name] in text
