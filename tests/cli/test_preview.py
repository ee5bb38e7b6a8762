"""`medgen preview`, run for real."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[bytes]]
MakeSet = Callable[..., Path]


def last_line(result: subprocess.CompletedProcess[bytes]) -> str:
    return result.stderr.decode().strip().splitlines()[-1]


def test_file_stream_and_pipe_give_the_same_picture(medgen: Run, make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set(count=4, depth=3)
    assert medgen("preview", path, "-o", tmp_path / "sheet.png").returncode == 0
    sheet = (tmp_path / "sheet.png").read_bytes()
    assert medgen("preview", path).stdout == sheet
    assert medgen("preview", path, "--limit", 32, "--marks").stdout == sheet
    picture = Image.open(io.BytesIO(sheet))
    assert picture.format == "PNG"
    assert picture.info == {}  # no time, no program
    assert picture.size[0] > 192
    piped = medgen("preview", "-o", "-", input=medgen("merge", path).stdout)
    assert Image.open(io.BytesIO(piped.stdout)).size == picture.size


def test_options_change_the_sheet(medgen: Run, make_set: MakeSet) -> None:
    path = make_set(count=6)
    sizes = {
        name: Image.open(io.BytesIO(medgen("preview", path, *arguments).stdout)).size
        for name, arguments in {
            "wide": ("--columns", 6, "--limit", 6, "--scale", 8),
            "high": ("--columns", 1, "--limit", 6, "--scale", 8),
            "few": ("--columns", 6, "--limit", 6, "--scale", 8, "--split", "val"),
        }.items()
    }
    assert sizes["wide"][0] > sizes["high"][0]
    assert sizes["high"][1] > 5 * sizes["wide"][1] / 2
    assert sizes["few"][0] < sizes["wide"][0]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--limit", 0), 78, "limit"),
        (("--scale", -1), 78, "scale"),
        (("--split", "test"), 65, "no case is in split 'test'"),
        (("-o", "no/such/sheet.png"), 73, "does not exist"),
    ],
)
def test_bad_calls(
    medgen: Run, make_set: MakeSet, tmp_path: Path, arguments: tuple[object, ...], status: int, words: str
) -> None:
    path = make_set()
    result = medgen("preview", path, *arguments, cwd=tmp_path)
    assert result.returncode == status, result.stderr
    assert words in last_line(result)
    assert result.stdout == b""
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_sheet_is_kept_unless_forced(medgen: Run, make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set()
    (tmp_path / "sheet.png").write_text("mine")
    assert medgen("preview", path, "-o", tmp_path / "sheet.png").returncode == 73
    assert (tmp_path / "sheet.png").read_text() == "mine"
    assert medgen("preview", path, "-o", tmp_path / "sheet.png", "--force").returncode == 0


def test_no_picture_goes_to_a_terminal(make_set: MakeSet) -> None:
    path = make_set()
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "medgen.cli.app", "preview", str(path)]
        result = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    finally:
        os.close(theirs)
        os.close(ours)
    assert result.returncode == 2
    assert b"standard output is a terminal" in result.stderr
