"""What lies beside the images in a folder: nothing of it becomes a case, or changes how the images are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.sets import open_set
from medgen.cli.app import run

WriteSlice = Callable[..., Path]


@dataclass
class Result:
    returncode: int
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def medgen(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: there are many runs, and each is quick."""

    def call(*arguments: object) -> Result:
        status = run([str(argument) for argument in arguments])
        return Result(status, capsys.readouterr().err)

    return call


def last_line(result: Result) -> str:
    return result.stderr.strip().splitlines()[-1]


def contents(path: Path) -> tuple[SetHeader, list[Case]]:
    with open_set(path) as reader:
        return reader.header, list(reader)


def volume(seed: int, depth: int = 5, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, (depth, size, size)).astype(np.int16)


def write_foreign(write_slice: WriteSlice, folder: Path) -> None:
    """What lies beside the images in a hospital's folder, of which nothing shows a patient."""
    for number, (name, uid, modality) in enumerate(
        (
            ("plan", "1.2.840.10008.5.1.4.1.1.481.5", "RTPLAN"),
            ("report", "1.2.840.10008.5.1.4.1.1.88.33", "SR"),
            ("report2", "1.2.840.10008.5.1.4.1.1.88.33", "SR"),
            ("key", "1.2.840.10008.5.1.4.1.1.88.59", "KO"),
            ("state", "1.2.840.10008.5.1.4.1.1.11.1", "PR"),
        )
    ):
        tags = {"SOPClassUID": uid, "Modality": modality, "SeriesInstanceUID": f"1.7.{number}"}
        write_slice(folder / f"{name}.dcm", np.zeros((2, 2), np.int16), Rows=None, Columns=None, **tags)
    drawing = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG", "SeriesInstanceUID": "1.7.99"}
    write_slice(folder / "drawing.dcm", np.array([[0, 255]], np.uint8), **drawing)
    write_slice(folder / "DICOMDIR", np.zeros((2, 2), np.int16), Rows=None, SOPClassUID="1.2.840.10008.1.3.10")
    (folder / "notes.txt").write_text("nothing")


def write_series(write_slice: WriteSlice, folder: Path, number: int, voxels: np.ndarray, **tags: object) -> None:
    for z, pixels in enumerate(voxels):
        uids = {"SeriesInstanceUID": f"1.2.8.{number}", "SOPInstanceUID": f"1.2.8.{number}.{z}"}
        write_slice(folder / f"{number}-{z}.dcm", pixels, z=2.5 * z, **{**uids, **tags})


def test_what_shows_no_patient_is_passed_over_with_one_line(
    medgen: Run, write_slice: WriteSlice, tmp_path: Path
) -> None:
    voxels = volume(0)
    write_series(write_slice, tmp_path / "in", 1, voxels)
    write_foreign(write_slice, tmp_path / "in")
    result = medgen("preprocess", tmp_path / "in", "-o", tmp_path / "a.h5")
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if "were skipped" in line]
    assert lines == [
        "medgen preprocess: 8 files that show no patient were skipped: Comprehensive SR (2), "
        "Grayscale Softcopy Presentation State (1), Key Object Selection Document (1), RT Plan (1), Segmentation (1)"
    ]
    header, (case,) = contents(tmp_path / "a.h5")
    assert np.array_equal(case["image"][:, 0], voxels)
    assert header.intensity
    assert (header.intensity.unit, header.intensity.window) == ("HU", (-1000.0, 400.0))
    drawing = tmp_path / "in" / "drawing.dcm"
    for asked in ((drawing,), (tmp_path / "in", "--series", "SEG")):  # by its name, by its modality
        result = medgen("preprocess", *asked, "--force", "-o", tmp_path / "b.h5")
        assert result.returncode == 0, result.stderr
        assert contents(tmp_path / "b.h5")[1][0]["image"].tolist() == [[[[0, 255]]]]
    result = medgen("preprocess", tmp_path / "in" / "plan.dcm", "-o", tmp_path / "c.h5")
    assert result.returncode == 65
    assert "plan.dcm: holds no image (RT Plan Storage)" in last_line(result)


FOREIGN = {
    "capture": (np.zeros((24, 24, 3), np.uint8), {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"}),
    "capture of the CT": (np.zeros((9, 9, 3), np.uint8), {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
    "pet": (np.zeros((24, 24), np.int16), {"Modality": "PT", "RescaleSlope": 0.37}),
    "radiograph": (np.zeros((24, 24), np.uint8), {"Modality": "CR"}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_series_never_changes_how_the_ct_is_stored(
    medgen: Run, write_slice: WriteSlice, tmp_path: Path, name: str
) -> None:
    voxels = volume(0)
    pixels, tags = FOREIGN[name]
    write_series(write_slice, tmp_path / "in", 1, voxels)
    tags = {"SeriesInstanceUID": "1.9", "SOPInstanceUID": "1.9.1", "ImagePositionPatient": None, **tags}
    write_slice(tmp_path / "in" / "0-foreign.dcm", pixels, **tags)  # the first by its name
    result = medgen("preprocess", tmp_path / "in", "-o", tmp_path / "a.h5")
    assert result.returncode == 65
    assert "0-foreign.dcm (" in last_line(result)
    assert "not on the same scale as the rest (CT, HU); choose with --series CT" in last_line(result)
    for choice, status in ((("--series", "CT"), 0), (("--keep-going",), 1)):
        result = medgen("preprocess", tmp_path / "in", *choice, "--force", "-o", tmp_path / "a.h5")
        assert result.returncode == status, result.stderr
        header, (case,) = contents(tmp_path / "a.h5")
        assert np.array_equal(case["image"][:, 0], voxels)
        assert header.intensity
        assert (header.intensity.unit, header.intensity.window) == ("HU", (-1000.0, 400.0))


def test_scales_can_be_mixed_when_each_case_has_its_own(medgen: Run, write_slice: WriteSlice, tmp_path: Path) -> None:
    write_series(write_slice, tmp_path / "in", 1, volume(0, depth=1))
    write_series(write_slice, tmp_path / "in", 2, volume(1, depth=1), Modality="MR")
    result = medgen("preprocess", tmp_path / "in", "-o", tmp_path / "a.h5")
    assert "choose with --series CT or --series MR, or scale each case by itself with --window 0.5%,99.5%" in last_line(
        result
    )
    result = medgen("preprocess", tmp_path / "in", "-o", tmp_path / "a.h5", "--window", "0.5%,99.5%")
    assert result.returncode == 0, result.stderr
    header, cases = contents(tmp_path / "a.h5")
    assert len(cases) == 2
    assert header.intensity
    assert header.intensity.unit == "relative"


def test_colour_beside_grey_dicom_asks_for_channels(medgen: Run, write_slice: WriteSlice, tmp_path: Path) -> None:
    grey, colour = np.full((8, 8), 7, np.uint8), np.full((8, 8, 3), (7, 7, 7), np.uint8)
    for number in range(2):
        write_series(write_slice, tmp_path / "in", number, grey[None], Modality="US", ImagePositionPatient=None)
    write_series(write_slice, tmp_path / "in", 3, colour[None], Modality="US", ImagePositionPatient=None)
    result = medgen("preprocess", tmp_path / "in", "-o", tmp_path / "a.h5")
    assert result.returncode == 65
    assert "3-0.dcm (US, colour, 8 bits): not on the same scale as the rest (US, 8 bits)" in last_line(result)
    assert "--channels 1 or 3" in last_line(result)
    result = medgen("preprocess", tmp_path / "in", "--channels", "1", "-o", tmp_path / "a.h5")
    assert result.returncode == 0, result.stderr
    assert {case["image"].shape for case in contents(tmp_path / "a.h5")[1]} == {(1, 1, 8, 8)}


def test_one_modality_of_two_depths_has_a_scale_a_case_and_a_word_is_said(
    medgen: Run, write_slice: WriteSlice, tmp_path: Path
) -> None:
    """Radiographs of 8 bits beside those of 12: neither has a unit. A capture of the screen is something else."""
    rng = np.random.default_rng(0)
    deep, shallow = rng.integers(0, 4096, (2, 8, 8)).astype(np.uint16), rng.integers(0, 256, (1, 8, 8)).astype(np.uint8)
    radiograph = {"Modality": "CR", "ImagePositionPatient": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"}
    for number, pixels in enumerate((deep[:1], deep[1:], shallow)):
        write_series(write_slice, tmp_path / "in", number, pixels, **radiograph)
    result = medgen("preprocess", tmp_path / "in", "-o", tmp_path / "a.h5")
    assert result.returncode == 0, result.stderr
    assert "warning: 1 of 3 cases have 8 bits, the others of their modality more" in result.stderr
    header, cases = contents(tmp_path / "a.h5")
    assert header.intensity
    assert header.intensity.unit == "relative"
    capture = {**radiograph, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}
    write_series(write_slice, tmp_path / "in", 3, shallow, **capture)
    result = medgen("preprocess", tmp_path / "in", "-o", tmp_path / "b.h5")
    assert "3-0.dcm (CR, 8 bits): not on the same scale as the rest" in last_line(result)
    assert "choose with --series CR, or scale each case by itself with --window 0.5%,99.5%" in last_line(result)
    result = medgen("preprocess", tmp_path / "in", "--series", "CR", "-o", tmp_path / "b.h5")
    assert result.returncode == 0, result.stderr
    assert "1 captures of the screen skipped" in result.stderr
    again = contents(tmp_path / "b.h5")[1]
    assert [case["image"].tobytes() for case in again] == [case["image"].tobytes() for case in cases]


def test_masks_beside_images_are_no_cases(medgen: Run, tmp_path: Path) -> None:
    folder, pixels = tmp_path / "in", np.arange(64, dtype=np.uint8).reshape(8, 8)
    names = ("a.png", "b.png", "b_mask.png", "c_mask.png", "masks/a.png", "part/Masks/b.png", "labelsTr/a.png")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels + len(name)).save(folder / name)
    result = medgen("preprocess", folder, "-o", tmp_path / "a.h5")
    assert result.returncode == 0, result.stderr
    assert "4 files that show no patient were skipped: masks (4)" in result.stderr
    assert len(contents(tmp_path / "a.h5")[1]) == 3  # c_mask.png has no image beside it
    result = medgen("preprocess", folder / "masks", folder / "b_mask.png", "-o", tmp_path / "b.h5")
    assert (result.returncode, len(contents(tmp_path / "b.h5")[1])) == (0, 2)  # asked for by name


@pytest.mark.parametrize("kind", ["chest-ct", "dental"])
def test_the_whole_folder_of_a_phantom_gives_its_images(medgen: Run, tmp_path: Path, kind: str) -> None:
    size = ("--slices", "12", "--size", "64") if kind == "chest-ct" else ("--size", "64")
    made = medgen("phantom", kind, "-n", "2", "-o", tmp_path / "in", *size)
    assert made.returncode == 0, made.stderr
    for source in (tmp_path / "in", tmp_path / "in" / "dicom"):
        result = medgen("preprocess", source, "-o", tmp_path / f"{source.name}.h5")
        assert result.returncode == 0, result.stderr
    (header, whole), (_, dicom) = contents(tmp_path / "in.h5"), contents(tmp_path / "dicom.h5")
    assert len(whole) == 2
    assert [case["image"].tobytes() for case in whole] == [case["image"].tobytes() for case in dicom]
    assert header.intensity
    if kind == "chest-ct":
        assert (header.intensity.unit, header.intensity.window) == ("HU", (-1000.0, 400.0))


@pytest.mark.parametrize(
    ("tags", "ask", "words"),
    [
        (
            {"PixelSpacing": [1e6, 1e6]},
            ("--spacing", "1"),
            "header says that a pixel measures 1e+06 mm: too many",
        ),
        ({"Rows": 12, "Columns": 48}, (), "have 48 x 12 pixels, those of"),
        ({"ImagePositionPatient": [0, 0, 1e300]}, ("--thickness", "1"), "reach over 1e+300 mm"),
    ],
)
def test_a_wrong_header_costs_no_other_series(
    medgen: Run, write_slice: WriteSlice, tmp_path: Path, tags: dict[str, object], ask: tuple[str, ...], words: str
) -> None:
    """Also where it is the first, to which the others would not fit."""
    write_series(write_slice, tmp_path / "in", 0, volume(0, depth=2), **tags)
    if "ImagePositionPatient" in tags:  # one slice far away from the other
        write_series(write_slice, tmp_path / "in", 0, volume(0, depth=1))
    for number in (1, 2):
        write_series(write_slice, tmp_path / "in", number, volume(number, depth=2))
    result = medgen("preprocess", tmp_path / "in", *ask, "--keep-going", "-o", tmp_path / "a.h5")
    assert result.returncode == 1, result.stderr
    (told,) = [line for line in result.stderr.splitlines() if "left out:" in line]
    assert f"{tmp_path}/in/0-" in told
    assert words in told
    assert len(contents(tmp_path / "a.h5")[1]) == 2


def test_readings_that_are_damaged_are_items_too(medgen: Run, write_slice: WriteSlice, tmp_path: Path) -> None:
    write_series(write_slice, tmp_path / "in", 1, volume(0))
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "cut.xml").write_text("<LidcReadMessage><Response")
    ask = ("preprocess", tmp_path / "in", "--lidc-xml", tmp_path / "xml", "-o", tmp_path / "a.h5")
    result = medgen(*ask)
    assert (result.returncode, "cut.xml: not valid XML" in last_line(result)) == (65, True)
    result = medgen(*ask, "--keep-going")
    assert (result.returncode, "left out: " in result.stderr) == (1, True)
    assert len(contents(tmp_path / "a.h5")[1]) == 1


def test_links_that_lead_in_a_circle_are_no_files(medgen: Run, tmp_path: Path) -> None:
    """Python up to 3.12 fails to resolve them."""
    (tmp_path / "circle").symlink_to("circle")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("path,label\ncircle,x\n")
    (tmp_path / "masks.csv").write_text("path,mask\na.png,circle\n")
    for more, status, told in (
        (("--labels", tmp_path / "labels.csv"), 65, "no file 'circle' in the sources"),
        (("--labels", tmp_path / "masks.csv"), 65, "no such mask 'circle'"),
        (("--masks", tmp_path / "circle"), 66, "circle: no such folder of masks"),
    ):
        done = medgen("preprocess", tmp_path / "a.png", *more, "-o", tmp_path / "out.h5")
        assert (done.returncode, told in last_line(done)) == (status, True), done.stderr
