"""`medgen export`, run for real."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from medgen.artifacts.sets import open_set
from medgen.cli.app import run

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


@pytest.fixture
def tilted(write_slice: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder of a series with gantry tilt and a wider gap."""
    random = np.random.default_rng(0)
    for index, z in enumerate((0, 1, 2, 4, 5, 6, 7)):
        write_slice(
            tmp_path / "tilted" / f"{index}.dcm",
            random.integers(-1000, 1000, (16, 16)).astype(np.int16),
            ImagePositionPatient=[-10.0, -20.0 + z, 20.0 * z],
        )
    return tmp_path / "tilted"


def quietly(*arguments: object) -> int:
    """The exit status of the command in this process."""
    return run([str(argument) for argument in arguments])


def positions(folder: Path) -> np.ndarray:
    return np.array([pydicom.dcmread(file).ImagePositionPatient for file in sorted(folder.rglob("*.dcm"))], float)


def test_dicom_keeps_the_place_of_each_slice(medgen: Run, tilted: Path, tmp_path: Path) -> None:
    assert quietly("preprocess", tilted, "-o", tmp_path / "a.h5") == 0
    for source in (tmp_path / "a.h5", "-"):
        stream = medgen("preprocess", tilted).stdout if source == "-" else b""
        out = tmp_path / f"out{source == '-'}"
        result = medgen("export", source, "--to", "dicom", "-o", out, input=stream)
        assert result.returncode == 0, result.stderr
        np.testing.assert_array_equal(positions(out), positions(tilted))
        assert "SpacingBetweenSlices" not in pydicom.dcmread(next(out.rglob("*.dcm")))
    again = medgen("preprocess", out, "-o", tmp_path / "b.h5")
    assert b"gantry tilt" in again.stderr
    with open_set(tmp_path / "a.h5") as first, open_set(tmp_path / "b.h5") as second:
        for ours, theirs in zip(first, second, strict=True):
            np.testing.assert_array_equal(ours["image"], theirs["image"])
            assert (ours.origins, ours.flaws) == (theirs.origins, theirs.flaws)


def test_nifti_refuses_slices_off_the_grid_and_takes_them_mended(medgen: Run, tilted: Path, tmp_path: Path) -> None:
    plain, mended = tmp_path / "plain.h5", tmp_path / "mended.h5"
    assert quietly("preprocess", tilted, "-o", plain) == 0
    result = medgen("export", plain, "--to", "nifti", "-o", tmp_path / "out")
    assert result.returncode == 65
    assert "uneven gaps, gantry tilt, which NIfTI cannot hold; preprocess with --mend" in last_line(result)
    assert not (tmp_path / "out").exists()
    assert quietly("preprocess", tilted, "--mend", "-o", mended) == 0
    assert quietly("export", mended, "--to", "nifti", "-o", tmp_path / "out") == 0
    with open_set(mended) as reader:
        (case,) = reader
    image = SimpleITK.ReadImage(str(tmp_path / "out" / f"{case.id}.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), case["image"][:, 0])
    assert case.filled == tuple(index == 3 for index in range(8))
    # What was measured is found where SimpleITK looks for it.
    last = pydicom.dcmread(tilted / "6.dcm")
    found = image.TransformPhysicalPointToIndex([float(value) for value in last.ImagePositionPatient])
    assert image[found] == last.pixel_array[0, 0]
    assert quietly("export", mended, "--to", "dicom", "-o", tmp_path / "dicom") == 0
    comments = [pydicom.dcmread(file).ImageComments for file in sorted((tmp_path / "dicom").rglob("*.dcm"))]
    assert ["not measured" in comment for comment in comments] == list(case.filled)
    facts = medgen("info", mended).stdout.decode()
    assert "uneven gaps, gantry tilt: 1" in facts
    assert "slices_filled: 1" in facts
    thin = medgen("interpolate", mended, "--spacing", 5, "-o", tmp_path / "thin.h5")
    assert thin.returncode == 0, thin.stderr
    refused = medgen("interpolate", plain, "--spacing", 5, "-o", tmp_path / "none.h5")
    assert refused.returncode == 65
    assert b"preprocess with --mend" in refused.stderr


def test_a_set_that_does_not_know_the_places_is_not_exported(medgen: Run, tilted: Path, tmp_path: Path) -> None:
    """Sets of version 0.1.0 knew of the tilt, but not where the slices lie."""
    assert quietly("preprocess", tilted, "-o", tmp_path / "old.h5") == 0
    with h5py.File(tmp_path / "old.h5", "a") as file:
        del file["origins"]
    result = medgen("export", tmp_path / "old.h5", "--to", "dicom", "-o", tmp_path / "out")
    assert result.returncode == 65
    assert "does not say where each slice lies" in last_line(result)
    assert not (tmp_path / "out").exists()


def test_frames_without_positions_get_none(write_slice: Callable[..., Path], tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 8)).astype(np.uint8)
    none = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient"), None)
    grey = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PlanarConfiguration": None}
    tags = {**none, **grey, "Modality": "US", "NumberOfFrames": 3, "Rows": 8, "Columns": 8}
    source = write_slice(tmp_path / "cine.dcm", frames, **tags)
    assert quietly("preprocess", source, "-o", tmp_path / "a.h5") == 0
    for to in ("dicom", "nifti"):
        assert quietly("export", tmp_path / "a.h5", "--to", to, "-o", tmp_path / to) == 0
    file = pydicom.dcmread(next((tmp_path / "dicom").rglob("*.dcm")))
    assert "ImagePositionPatient" not in file
    assert file.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    image = nibabel.load(next((tmp_path / "nifti").rglob("*.nii.gz")))
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (0, 0)
    assert quietly("preprocess", tmp_path / "nifti", "--window", "0,255", "-o", tmp_path / "b.h5") == 0
    with open_set(tmp_path / "a.h5") as first, open_set(tmp_path / "b.h5") as second:
        np.testing.assert_array_equal(next(iter(first))["image"], next(iter(second))["image"])


@pytest.mark.parametrize("unit", ["HU", "grey value"])
def test_exported_nifti_comes_back_as_it_was(write_slice: Callable[..., Path], tmp_path: Path, unit: str) -> None:
    random = np.random.default_rng(0)
    for index in range(3):
        low, kind = (-1000, np.int16) if unit == "HU" else (0, np.uint8)
        pixels = random.integers(low, 255, (12, 10)).astype(kind)
        modality = "CT" if unit == "HU" else "OT"
        write_slice(tmp_path / "in" / f"{index}.dcm", pixels, z=4.0 * index, Modality=modality)
    assert quietly("preprocess", tmp_path / "in", "-o", tmp_path / "a.h5") == 0
    assert quietly("export", tmp_path / "a.h5", "--to", "nifti", "-o", tmp_path / "out") == 0
    assert quietly("preprocess", tmp_path / "out", "-o", tmp_path / "b.h5") == 0
    with open_set(tmp_path / "a.h5") as first, open_set(tmp_path / "b.h5") as second:
        assert first.header.intensity == second.header.intensity
        assert first.header.intensity.unit == unit
        for ours, theirs in zip(first, second, strict=True):
            np.testing.assert_array_equal(ours["image"], theirs["image"])
            assert ours["image"].dtype == theirs["image"].dtype
            np.testing.assert_allclose(ours.slice_origins, theirs.slice_origins, atol=1e-4)


def test_ct_on_a_scale_of_its_own_does_not_come_back_as_hu(write_slice: Callable[..., Path], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(-1000, 1000, (12, 10)).astype(np.int16)
    write_slice(tmp_path / "in" / "0.dcm", pixels)
    assert quietly("preprocess", tmp_path / "in", "--window", "0.5%,99.5%", "-o", tmp_path / "a.h5") == 0
    assert quietly("export", tmp_path / "a.h5", "--to", "dicom", "-o", tmp_path / "out") == 0
    assert quietly("preprocess", tmp_path / "out", "-o", tmp_path / "b.h5") == 0
    with open_set(tmp_path / "a.h5") as first, open_set(tmp_path / "b.h5") as second:
        assert first.header.intensity == second.header.intensity
        np.testing.assert_allclose(next(iter(first))["image"], next(iter(second))["image"], atol=2)
