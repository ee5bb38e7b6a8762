"""`medgen export`, run for real."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from medgen.artifacts.sets import open_set

Run = Callable[..., subprocess.CompletedProcess[bytes]]
MakeSet = Callable[..., Path]


def last_line(result: subprocess.CompletedProcess[bytes]) -> str:
    return result.stderr.decode().strip().splitlines()[-1]


def test_dicom_of_a_set_is_what_the_set_holds(medgen: Run, make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set(count=2, depth=3)
    result = medgen("export", path, "--to", "dicom", "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert result.stdout == b""
    assert last_line(result).endswith(f"2 cases, 6 slices as dicom in {tmp_path / 'out'}")
    with open_set(path) as reader:
        for case in reader:
            names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "out" / case.id))
            image = SimpleITK.ReadImage(names)
            np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), case["image"][:, 0])
            np.testing.assert_allclose(image.GetOrigin(), case.origin)
            np.testing.assert_allclose(image.GetSpacing(), case.spacing[::-1])


def test_a_pipe_and_a_file_give_the_same_bytes(medgen: Run, make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set(count=2)
    stream = medgen("merge", path).stdout
    for to in ("dicom", "nifti", "png"):
        folders = tmp_path / f"{to}-file", tmp_path / f"{to}-pipe"
        assert medgen("export", path, "--to", to, "-o", folders[0]).returncode == 0
        assert medgen("export", "--to", to, "-o", folders[1], input=stream).returncode == 0
        found = [
            {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
            for folder in folders
        ]
        assert found[0].keys() == found[1].keys()
        if to != "dicom":  # DICOM tells the provenance, and merge is a step of its own
            assert found[0] == found[1]


def test_a_truncated_stream_leaves_nothing(medgen: Run, make_set: MakeSet, tmp_path: Path) -> None:
    stream = medgen("merge", make_set(count=3)).stdout
    result = medgen("export", "--to", "png", "--limit", 1, "-o", tmp_path / "out", input=stream[:-40])
    assert result.returncode == 65
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_split_and_limit(medgen: Run, make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set(count=6)
    assert (
        medgen("export", path, "--to", "dicom", "-o", tmp_path / "out", "--split", "val", "--limit", 1).returncode == 0
    )
    files = [pydicom.dcmread(file) for file in (tmp_path / "out").rglob("*.dcm")]
    assert {str(file.PatientID) for file in files} == {"case2"}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--to", "tiff", "-o", "out"), 78, "tiff"),
        (("-o", "out"), 2, "--to dicom"),
        (("--to", "png"), 2, "-o DIR"),
        (("--to", "png", "--bits", 12, "-o", "out"), 78, "bits"),
        (("--to", "png", "--split", "test", "-o", "out"), 65, "no case is in split 'test'"),
        (("--to", "png", "-o", "no/such/out"), 73, "does not exist"),
    ],
)
def test_bad_calls(
    medgen: Run, make_set: MakeSet, tmp_path: Path, arguments: tuple[object, ...], status: int, words: str
) -> None:
    path = make_set()
    result = medgen("export", path, *arguments, cwd=tmp_path)
    assert result.returncode == status, result.stderr
    assert words in last_line(result)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_set_is_named(medgen: Run, tmp_path: Path) -> None:
    assert medgen("export", tmp_path / "gone.h5", "--to", "png", "-o", tmp_path / "out").returncode == 66
    (tmp_path / "text").write_text("this is not a set at all")
    result = medgen("export", tmp_path / "text", "--to", "png", "-o", tmp_path / "out")
    assert result.returncode == 65
    assert not (tmp_path / "out").exists()
