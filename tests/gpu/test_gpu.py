"""Every part of `make gpu` runs at a tiny size on any device, so that it works on the day that a GPU is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .__main__ import PARTS, ROOT, write_page
from .work import TINY

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


def test_the_command_writes_a_page(tmp_path: Path) -> None:
    done = run("1", "--tiny", "--device", DEVICE, "-o", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (page,) = tmp_path.glob("*-tests.md")
    assert done.stdout == f"{page}\n"
    assert ("passed" if DEVICE == "cuda" else "skipped") in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("part", [part for part in PARTS if part != "1"])
def test_each_part_writes_its_page(part: str, tmp_path: Path) -> None:
    name = PARTS[part][0]
    if name in ("networks", "commands"):
        pytest.importorskip("monai", reason="comes with the bench extra")
    page = write_page(part, torch.device(DEVICE), TINY, tmp_path)
    assert page.name.endswith(f"-{name}.md")
    text = page.read_text(encoding="utf-8")
    assert "torch" in text.splitlines()[2]
    words = {
        "networks": "| VAE decode",
        "commands": "uncompressed",
        "presets": "dental-normalizer",
        "interpolation": "| 2 |",
        "nodules": '"conditioning"',
        "pairs": "| 8 samples",
    }
    assert words[name] in text
