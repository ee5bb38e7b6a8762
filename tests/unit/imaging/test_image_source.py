from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medgen.artifacts.schema import Intensity
from medgen.cli.console import Console
from medgen.errors import DataError, UsageError
from medgen.imaging.cases.options import PreprocessOptions, ReadingOptions
from medgen.imaging.image_source import fitting, is_set, open_alike, open_images


@pytest.fixture
def ct(tmp_path: Path, write_slice: Callable[..., Path]) -> Path:
    """A folder with one series of three slices of 12 x 16 pixels whose values are -1000, 0 and 400 HU."""
    for index, value in enumerate((-1000, 0, 400)):
        pixels = np.full((12, 16), value, np.int16)
        write_slice(tmp_path / "ct" / f"{index}.dcm", pixels, z=2.5 * index)
    return tmp_path / "ct"


def test_a_folder_becomes_a_set_that_leaves_nothing_behind(
    ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    abandoned = scratch / ".medgen-images.0123abcd.partial"  # by a run that was killed
    abandoned.mkdir(parents=True)
    (abandoned / ".medgen.json").touch()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with open_images(ct, Console("evaluate"), PreprocessOptions(workers=1)) as images:
        stored = images.stored
        assert not list(scratch.glob("*medgen*"))  # no name is left even while it is read
        assert stored.header.intensity is not None
        assert stored.header.intensity.unit == "HU"
        assert stored.read("image", [0, 1, 2])[:, 0, 0, 0].tolist() == [-1000, 0, 400]
        assert stored.cases[0].spacing == (2.5, 0.5, 0.5)
        with pytest.raises(DataError, match=r"/ct: has no 'vector'"):
            stored.column("vector")


def test_options_left_open_are_filled_from_what_is_compared_with() -> None:
    hu = Intensity(window=(-1000.0, 250.5))
    options = fitting(PreprocessOptions(), hu, (1, 48, 64))
    assert (options.window, options.size, options.channels, options.modality) == ("-1000.0,250.5", "64x48", "1", "CT")
    given = PreprocessOptions(window="lung", size="32", channels="3", modality="MR")
    assert fitting(given, hu, (1, 48, 64)) == given
    # Relative values are scaled case by case: a window would put an end to that.
    assert fitting(PreprocessOptions(), Intensity(unit="relative", window=(0.0, 1.0))).window == "auto"


def test_sets_and_files_are_told_apart(ct: Path, tiny: Path, tmp_path: Path, medgen: Callable[..., object]) -> None:
    stream = tmp_path / "stream"
    with stream.open("wb") as file:
        medgen("merge", tiny / "images.h5", stdout=file, capture_output=False)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert all(is_set(path) for path in (tiny / "images.h5", stream, "-", tmp_path / "none", pipe))
    assert not any(is_set(path) for path in (ct, ct / "0.dcm", tmp_path / "a.png"))


def test_a_source_named_twice_is_read_once(ct: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack:
        one, other = open_alike(stack, [ct, ct], Console("evaluate"), PreprocessOptions(workers=1))
        assert one is other
    assert capfd.readouterr().err.count("3 slices of 1 cases") == 1


def test_files_without_a_set_fit_the_model(ct: Path) -> None:
    hu = Intensity(window=(-500.0, 100.0))
    with contextlib.ExitStack() as stack:
        (images,) = open_alike(stack, [ct], Console("evaluate"), PreprocessOptions(workers=1), intensity=hu)
        assert images.stored.header.intensity == hu


def test_a_set_is_opened_as_it_is(tiny: Path) -> None:
    with open_images(tiny / "images.h5", Console("evaluate")) as images:
        assert len(images.stored) == 4
        assert not images.files


def test_what_is_left_out_is_reported(ct: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (ct / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    console = Console("evaluate")
    with pytest.raises(DataError, match=r"broken\.png"), open_images(ct, console, PreprocessOptions(workers=1)):
        pass
    with open_images(ct, console, PreprocessOptions(workers=1, keep_going=True)) as images:
        assert images.stored.slices == 3
        assert [stack.first.entry.within for _, stack in images.files] == ["0.dcm"]
    assert len(console.report["left_out"]) == 1
    assert "broken.png" in capfd.readouterr().err


def test_all_ways_of_reading_apply_to_what_is_compared(ct: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 100, (8, 6, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(pixels, np.diag([-1.0, -1.0, 2.5, 1.0])), tmp_path / "v.nii.gz")
    reading = ReadingOptions(workers=1, modality="CT", spacing=1.0, min_slices=2)
    with contextlib.ExitStack() as stack:
        sources = [ct, tmp_path / "v.nii.gz"]
        dicom, nifti = (one.stored for one in open_alike(stack, sources, Console("evaluate"), reading))
        assert nifti.header.intensity == dicom.header.intensity
        assert [row.spacing for row in (*dicom.cases, *nifti.cases)] == [(2.5, 1.0, 1.0)] * 2
        np.testing.assert_array_equal(nifti.read("image", range(3))[:, 0], pixels.transpose(2, 1, 0))


def test_ways_of_reading_are_not_for_sets(tiny: Path) -> None:
    reading = ReadingOptions(modality="CT", mend=True, workers=2)
    with contextlib.ExitStack() as stack, pytest.raises(UsageError, match="--mend and --modality: for files"):
        open_alike(stack, [tiny / "images.h5"], Console("evaluate"), reading)


def test_equal_names_pair_pictures_but_not_series(tmp_path: Path, write_slice: Callable[..., Path]) -> None:
    """Files of DICOM are called alike everywhere; pictures that are called alike in two folders show the same."""
    for number, folder in enumerate(("one", "two")):
        for index in range(2):
            pixels = np.full((8, 8), 10 * number + index, np.int16)
            uid = f"1.2.{number}"
            write_slice(tmp_path / f"{folder}-ct" / f"{index}.dcm", pixels, z=index, SeriesInstanceUID=uid)
        volume = nibabel.Nifti1Image(np.full((8, 8, 1, 1, 2), number, np.int16), np.eye(4))
        (tmp_path / folder).mkdir()
        nibabel.save(volume, tmp_path / folder / "a.nii.gz")
    sources = [tmp_path / name for name in ("one", "two", "one-ct", "two-ct")]
    with contextlib.ExitStack() as stack:
        opened = open_alike(stack, sources, Console("evaluate"), ReadingOptions(workers=1, modality="CT"))
        first, second, *series = ([row.id for row in one.stored.cases] for one in opened)
        assert first == second
        assert len(set(first)) == 2  # two time points, each paired with its own
        assert len({case for cases in series for case in cases}) == 2
