"""`medgen preprocess` as the shell sees it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.sets import open_set
from medgen.cli.app import run

Run = Callable[..., subprocess.CompletedProcess[bytes]]
WriteSlice = Callable[..., Path]


def last_line(result: subprocess.CompletedProcess[bytes]) -> str:
    return result.stderr.decode().strip().splitlines()[-1]


def contents(path: Path) -> tuple[SetHeader, list[Case]]:
    with open_set(path) as reader:
        return reader.header, list(reader)


def volume(seed: int, depth: int = 5, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, (depth, size, size)).astype(np.int16)


@pytest.fixture
def make_ct(write_slice: WriteSlice, tmp_path: Path) -> Callable[..., Path]:
    """A ZIP of one series whose file names are shuffled: `make_ct("one", voxels)`."""

    def make(name: str, voxels: np.ndarray, **tags: object) -> Path:
        names = [f"{index:03d}.dcm" for index in range(len(voxels))]
        random.Random(0).shuffle(names)
        number = int.from_bytes(name.encode(), "big")
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for z, (file, pixels) in enumerate(zip(names, voxels, strict=True)):
                series = {"SeriesInstanceUID": f"1.2.{number}", "PatientID": f"PATIENT-{name}", **tags}
                path = write_slice(tmp_path / "raw" / name / file, pixels, z=2.5 * z, **series)
                archive.write(path, f"{name}/{file}")
        return tmp_path / f"{name}.zip"

    return make


def test_a_zip_becomes_a_set(medgen: Run, make_ct: Callable[..., Path], tmp_path: Path) -> None:
    voxels = volume(0)
    source = make_ct("one", voxels, RescaleIntercept=-24)
    result = medgen("preprocess", source, "-o", tmp_path / "a.h5", "--report", tmp_path / "r.json")
    assert result.returncode == 0, result.stderr
    assert result.stdout == b""
    assert all(line.startswith("medgen preprocess: ") for line in result.stderr.decode().splitlines())
    header, (case,) = contents(tmp_path / "a.h5")
    assert np.array_equal(case["image"][:, 0], voxels - 24)
    assert case.spacing == (2.5, 0.5, 0.5)
    assert case.origin == (-10.0, -20.0, 0.0)
    assert case.modality == ("CT",) * 5
    assert header.intensity
    assert header.intensity.window == (-1000.0, 400.0)
    assert json.loads((tmp_path / "r.json").read_text())["slices"] == 5


def test_nothing_about_the_patient_reaches_the_set(medgen: Run, make_ct: Callable[..., Path], tmp_path: Path) -> None:
    source = make_ct("identifying", volume(0), PatientName="Muster^Max", StudyDescription="Thorax of Max")
    stored, piped = medgen("preprocess", source, "-o", tmp_path / "a.h5"), medgen("preprocess", source)
    assert (stored.returncode, piped.returncode) == (0, 0), stored.stderr + piped.stderr
    for content in ((tmp_path / "a.h5").read_bytes(), piped.stdout):
        for secret in (b"Muster", b"PATIENT", b"identifying", b"1.2.3", b"19700102", b"Thorax", str(tmp_path).encode()):
            assert secret not in content


def test_file_pipe_workers_and_shards_give_the_same(medgen: Run, make_ct: Callable[..., Path], tmp_path: Path) -> None:
    sources = [make_ct(name, volume(index, depth=3 + 9 * index)) for index, name in enumerate(("one", "two", "three"))]
    arguments = ("preprocess", *sources, "--size", "16")
    assert medgen(*arguments, "-o", tmp_path / "a.h5", "--workers", "1").returncode == 0
    assert medgen(*arguments, "-o", tmp_path / "b.h5", "--workers", "2").returncode == 0
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    piped = medgen(*arguments, "--workers", "2").stdout
    length = int.from_bytes(piped[:8], "little")
    assert json.loads(piped[8 : 8 + length])  # safetensors begins with the length of its JSON
    (tmp_path / "c.stream").write_bytes(piped)
    for ours, theirs in zip(contents(tmp_path / "a.h5")[1], contents(tmp_path / "c.stream")[1], strict=True):
        assert ours.facts() == theirs.facts()
        assert np.array_equal(ours["image"], theirs["image"])
    for part in range(2):
        assert medgen(*arguments, "-o", tmp_path / f"s{part}.h5", "--shard", f"{part}/2").returncode == 0
    assert medgen("merge", tmp_path / "s1.h5", tmp_path / "s0.h5", "-o", tmp_path / "m.h5").returncode == 0
    assert (tmp_path / "m.h5").read_bytes() == (tmp_path / "a.h5").read_bytes()


def test_splits_do_not_change_when_data_is_added(medgen: Run, make_ct: Callable[..., Path], tmp_path: Path) -> None:
    sources = [make_ct(f"p{index}", volume(index, depth=1, size=4)) for index in range(8)]
    splits = []
    for count in (4, 8):
        out = tmp_path / f"{count}.h5"
        result = medgen("preprocess", *sources[:count], "-o", out, "--split-fractions", "0.4,0.3,0.3")
        assert result.returncode == 0
        splits.append({case.id: case.split for case in contents(out)[1]})
    assert splits[0].items() <= splits[1].items()
    assert len(set(splits[1].values())) > 1


def test_labels_masks_and_geometry_agree(medgen: Run, make_ct: Callable[..., Path], tmp_path: Path) -> None:
    voxels = np.full((6, 32, 32), -900, np.int16)
    mask = np.zeros((6, 32, 32), np.uint8)
    mask[2:5, 8:16, 20:26] = 1
    voxels[mask > 0] = 50
    source = make_ct("one", voxels)
    rows = "".join(f"one,{z},1,{23 / 32},{12 / 32},{8 / 32},0.5,1\n" for z in (2, 3, 4))
    (tmp_path / "labels.csv").write_text(f"case,slice,has_nodule,x,y,size,malignancy,texture\n{rows}")
    (tmp_path / "masks").mkdir()
    affine = np.diag([-0.5, -0.5, 2.5, 1.0])
    affine[:3, 3] = (10.0, 20.0, 0.0)
    nibabel.save(nibabel.Nifti1Image(mask.transpose(2, 1, 0), affine), tmp_path / "masks" / "one.nii.gz")
    result = medgen(
        *("preprocess", source, "--labels", tmp_path / "labels.csv", "--masks", tmp_path / "masks"),
        *("--size", "96x64", "--keep-aspect", "-o", tmp_path / "a.h5"),
    )
    assert result.returncode == 0, result.stderr
    header, (case,) = contents(tmp_path / "a.h5")
    assert case["image"].shape == (6, 1, 64, 96)
    for z in range(6):
        if z not in (2, 3, 4):
            assert not case["vector"][z].any()
            assert not case["mask"][z].any()
            continue
        ys, xs = np.nonzero(case["mask"][z, 0])
        _, x, y, size, malignancy, texture = case["vector"][z]
        assert x * 96 == pytest.approx((xs.min() + xs.max() + 1) / 2, abs=0.6)
        assert y * 64 == pytest.approx((ys.min() + ys.max() + 1) / 2, abs=0.6)
        assert size * 96 == pytest.approx(np.ptp(ys) + 1, abs=1.1)
        assert (malignancy, texture) == (0.5, 1.0)
        assert case["image"][z, 0][case["mask"][z, 0] > 0].min() > -450
    assert header.vector_fields == ("has_nodule", "x", "y", "size", "malignancy", "texture")

    result = medgen(
        *("preprocess", source, "--labels", tmp_path / "labels.csv", "--healthy-slices", "1", "-o", tmp_path / "h.h5")
    )
    assert result.returncode == 0, result.stderr
    header, (case,) = contents(tmp_path / "h.h5")
    assert case["vector"][:, 0].tolist().count(1.0) == 3
    assert len(case) == 4
    assert "slices" in header.notes


def test_resampling_in_millimetres(medgen: Run, make_ct: Callable[..., Path], tmp_path: Path) -> None:
    depth, size = 9, 24
    z, y, x = np.mgrid[:depth, :size, :size]
    voxels = (10 * z * 2.5 + 4 * y * 0.5 + 2 * x * 0.5).astype(np.int16)  # HU linear in mm
    source = make_ct("one", voxels)
    out = tmp_path / "a.h5"
    result = medgen("preprocess", source, "--spacing", "1", "--thickness", "1.25", "--size", "8", "-o", out)
    assert result.returncode == 0, result.stderr
    _, (case,) = contents(out)
    assert case.spacing == pytest.approx((1.25, 1.0, 1.0))
    assert case["image"].shape == (18, 1, 8, 8)
    zz, yy, xx = np.mgrid[:18, :8, :8]
    mm_z = case.origin[2] + 1.25 * zz
    mm_y, mm_x = case.origin[1] + yy + 20.0, case.origin[0] + xx + 10.0
    expected = 10 * mm_z + 4 * mm_y + 2 * mm_x
    inner = (mm_z >= 0) & (mm_z <= 20)
    assert np.abs(case["image"][:, 0] - expected)[inner].max() <= 1.6  # integers in, integers out


def test_flaws_of_the_geometry_warn_and_forbid_resampling(medgen: Run, write_slice: WriteSlice, tmp_path: Path) -> None:
    for index, z in enumerate((0, 1, 2, 5, 6)):
        write_slice(tmp_path / "in" / f"{index}", np.zeros((8, 8), np.int16), z=z)
    result = medgen("preprocess", tmp_path / "in", "-o", tmp_path / "a.h5")
    assert result.returncode == 0
    assert b"warning: " in result.stderr
    assert b"uneven gaps: 3 mm between slices 2 and 3" in result.stderr
    assert contents(tmp_path / "a.h5")[1][0].flaws == "uneven gaps"
    assert json.loads(medgen("info", tmp_path / "a.h5", "--json").stdout)["geometry"]["flaws"] == {"uneven gaps": 1}
    result = medgen("preprocess", tmp_path / "in", "-o", tmp_path / "b.h5", "--thickness", "1")
    assert result.returncode == 65
    assert "uneven gaps" in last_line(result)
    assert "leave --thickness out" in last_line(result)
    assert not (tmp_path / "b.h5").exists()


def test_thickness_and_frame_of_reference_are_kept_and_the_frame_is_hashed(
    medgen: Run, write_slice: WriteSlice, tmp_path: Path
) -> None:
    for series, step, uid in (("a", 1.0, "1.2.7"), ("b", 2.5, "1.2.7"), ("c", 2.5, "1.2.8")):
        for index in range(4):
            pixels = np.full((8, 8), index, np.int16)
            tags = {"SeriesInstanceUID": f"1.{ord(series)}", "SOPInstanceUID": f"1.{ord(series)}.{index}"}
            write_slice(tmp_path / series / f"{index}", pixels, z=step * index, FrameOfReferenceUID=uid, **tags)
    sources = [tmp_path / name for name in "abc"]
    assert medgen("preprocess", *sources, "-o", tmp_path / "a.h5").returncode == 0
    _, cases = contents(tmp_path / "a.h5")
    assert [(case.spacing[0], case.thickness) for case in cases] == [(1.0, 2.5), (2.5, 2.5), (2.5, 2.5)]
    frames = [case.frame for case in cases]
    assert frames[0] == frames[1] != frames[2]
    assert "1.2" not in "".join(frames)
    assert medgen("preprocess", sources[0], "-o", tmp_path / "b.h5", env={"MEDGEN_ID_KEY": "other"}).returncode == 0
    assert contents(tmp_path / "b.h5")[1][0].frame not in frames
    assert medgen("preprocess", *sources, "--thickness", "5", "-o", tmp_path / "c.h5").returncode == 0
    assert [(case.spacing[0], case.thickness) for case in contents(tmp_path / "c.h5")[1]] == [(5.0, 5.0)] * 3
    assert medgen("preprocess", *sources, "--thickness", "0.5", "-o", tmp_path / "d.h5").returncode == 0
    assert [(case.spacing[0], case.thickness) for case in contents(tmp_path / "d.h5")[1]] == [(0.5, 2.5)] * 3
    geometry = json.loads(medgen("info", tmp_path / "a.h5", "--json").stdout)["geometry"]
    assert geometry == {"slice_spacing_mm": [1.0, 2.5], "slice_thickness_mm": [2.5, 2.5], "frames_of_reference": 2}


def test_labels_tell_the_series_of_one_zip_apart(medgen: Run, write_slice: WriteSlice, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for number in range(2):
            for z in range(3):
                tags = {"SeriesInstanceUID": f"1.2.7.{number}", "SOPInstanceUID": f"1.2.7.{number}.{z}"}
                pixels = np.full((8, 8), 100 * number + z, np.int16)
                archive.write(write_slice(tmp_path / "raw.dcm", pixels, z=2.5 * z, **tags), f"{number}{z}.dcm")
    labels = tmp_path / "labels.csv"
    arguments = ("preprocess", tmp_path / "study.zip", "--labels", labels, "-o", tmp_path / "a.h5")
    labels.write_text("path,label\nstudy.zip,normal\n")
    result = medgen(*arguments)
    assert result.returncode == 65
    assert "labels.csv, row 2: 'study.zip' means 2 cases: 1.2.7.0, 1.2.7.1; " in last_line(result)
    assert "name one in a column 'series'" in last_line(result)
    labels.write_text("path,series,label\nstudy.zip,1.2.7.1,tumour\nstudy.zip,1.2.7.0,normal\n")
    result = medgen(*arguments)
    assert result.returncode == 0, result.stderr
    found = {int(case["image"].max()): case["label"].tolist() for case in contents(tmp_path / "a.h5")[1]}
    assert found == {2: [0, 0, 0], 102: [1, 1, 1]}  # normal 0, tumour 1
    assert b"1.2.7" not in (tmp_path / "a.h5").read_bytes()  # no UID reaches the set


def test_a_bad_file_stops_or_is_left_out(medgen: Run, make_ct: Callable[..., Path], tmp_path: Path) -> None:
    good = make_ct("good", volume(0))
    bad = tmp_path / "raw" / "bad.dcm"
    bad.write_bytes((tmp_path / "raw" / "good" / "000.dcm").read_bytes()[:-100].replace(b"1.2.", b"1.3."))
    (tmp_path / "raw" / "text.dcm").write_bytes(b"no DICOM at all" * 30)
    arguments = ("preprocess", good, bad, tmp_path / "raw" / "text.dcm", "-o", tmp_path / "a.h5")
    result = medgen(*arguments)
    assert result.returncode == 65
    assert "text.dcm" in last_line(result)
    assert "--keep-going" in last_line(result)
    assert not list(tmp_path.glob("*a.h5*"))
    result = medgen(*arguments, "--keep-going", "--report", tmp_path / "r.json")
    assert result.returncode == 1
    assert last_line(result) == (
        "medgen preprocess: 2 items were left out, each named above; the rest is in the output"
    )
    told = [line for line in result.stderr.decode().splitlines() if "left out: " in line]
    assert [name in line for name, line in zip(("text.dcm", "bad.dcm"), told, strict=True)] == [True, True]
    left_out = json.loads((tmp_path / "r.json").read_text())["left_out"]
    assert left_out == [{"source": 3, "file": 1}, {"source": 2, "file": 1}]
    assert len(contents(tmp_path / "a.h5")[1]) == 1


def test_pictures_with_classes_and_a_table_as_source(medgen: Run, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "no").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, shape in (("a b.png", (9, 12)), ("no/b.jpg", (9, 12, 3)), ("c.png", (9, 12, 4))):
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(folder / name)
    (folder / "c.png").write_bytes((folder / "a b.png").read_bytes())
    (folder / "table.csv").write_text('path,text,modal,label\na b.png,"one, two",XR,ill\nno/b.jpg,three,XR,well\n')
    result = medgen("preprocess", folder / "table.csv", "-o", tmp_path / "a.h5", "--split-name", "test")
    assert result.returncode == 0, result.stderr
    header, cases = contents(tmp_path / "a.h5")
    assert [case.text for case in cases] == [("one, two",), ("three",)]
    assert [case.modality for case in cases] == [("XR",), ("XR",)]
    assert [case["label"].tolist() for case in cases] == [[0], [1]]
    assert header.label_names == ("ill", "well")
    assert {case.split for case in cases} == {"test"}
    assert cases[0]["image"].shape == (1, 3, 9, 12)
    result = medgen("preprocess", folder, "-o", tmp_path / "b.h5", "--channels", "1", "--split-fractions", "0.5,0.5")
    assert b"1 cases show exactly the pixels of another case of their split" in result.stderr
    cases = contents(tmp_path / "b.h5")[1]
    assert cases[0]["image"].shape == (1, 1, 9, 12)
    assert cases[0].split == cases[1].split  # the two copies
    with (folder / "table.csv").open("a") as file:
        file.write("gone.png,x,XR,ill\n")
    result = medgen("preprocess", folder / "table.csv", "-o", tmp_path / "c.h5")
    assert (result.returncode, "row 4: no such file 'gone.png'" in last_line(result)) == (65, True)


def test_sizes_that_differ_are_told_by_file_with_the_remedy(medgen: Run, tmp_path: Path) -> None:
    for name, side in (("a.png", 8), ("b.png", 9)):
        Image.fromarray(np.zeros((side, 8), np.uint8)).save(tmp_path / name)
    result = medgen("preprocess", tmp_path, "-o", tmp_path / "a.h5")
    assert result.returncode == 65
    assert "b.png: its slices have 8 x 9 pixels" in last_line(result)
    assert "--size" in last_line(result)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothere"], 66, "nothere: no such file or folder"),
        (["empty"], 65, "holds no images"),
        (["a.png", "--size", "big"], 78, "size"),
        (["a.png", "--size", "0"], 78, "size"),
        (["a.png", "--window", "lungs"], 78, "did you mean 'lung'"),
        (["a.png", "--split-fractions", "0.5,0.1"], 78, "add up to 1"),
        (["a.png", "--split-name", "training"], 78, "--split-name training"),
        (["a.png", "--spacing", "1"], 65, "pixel spacing; use --size"),
        (["a.png", "--spacing", "-1"], 78, "spacing"),
        (["a.png", "--mask-background"], 2, "the images are not CT"),
        (["a.png", "--shard", "3/2"], 2, "--shard 3/2"),
        (["a.png", "--labels", "gone.csv"], 66, "gone.csv"),
        (["a.png", "--labels", "other.csv"], 65, "row 2: no file 'x.png'"),
        (["a.png", "--masks", "gone"], 66, "gone"),
        (["a.png", "--masks", "empty2"], 65, "no mask found"),
        (["a.png", "--lidc-xml", "gone.xml"], 66, "gone.xml"),
        (["a.png", "--series", "CT"], 65, "no images left"),
        (["a.png", "--set", "sizes=3"], 78, "did you mean 'size'"),
        ([], 2, "SOURCE"),
    ],
)
def test_every_mistake_has_its_sentence_and_status(
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty2").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "empty2" / "zzz.png")
    (tmp_path / "other.csv").write_text("path,label\nx.png,1\n")
    monkeypatch.chdir(tmp_path)
    status = run(["preprocess", *arguments, "-o", "out.h5"])  # in this process: there are many, and each is quick
    told = capsys.readouterr().err
    assert (status, words in told.strip().splitlines()[-1]) == (code, True), told
    assert not list(tmp_path.glob("*out.h5*"))


def test_print_config_comes_back(medgen: Run, tmp_path: Path) -> None:
    first = medgen("preprocess", "x", "--size", "96", "--set", "thickness=2.5", "--print-config")
    (tmp_path / "c.toml").write_bytes(first.stdout)
    again = medgen("preprocess", "x", "--config", tmp_path / "c.toml", "--print-config")
    assert again.stdout == first.stdout
    assert b'size = "96"' in first.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_worker_and_no_file_outlives_the_command(
    make_ct: Callable[..., Path], tmp_path: Path, number: signal.Signals
) -> None:
    source = make_ct("one", volume(0, depth=60, size=128))
    command = [sys.executable, "-m", "medgen.cli.app", "preprocess", *[str(source)], "--size", "600", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stdout
    process.stdout.read(1000)  # it is writing, and soon the pipe is full
    process.send_signal(number)
    process.stdout.close()
    process.wait(timeout=30)
    deadline = time.monotonic() + 20
    while (left := _session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _session(leader: int) -> list[int]:
    """Processes of the session that are alive."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z" and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def test_readings_of_another_series_are_told_when_named_and_passed_over_in_folders(
    medgen: Run, make_ct: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_ct("one", volume(0))
    folder = tmp_path / "readings"
    folder.mkdir()
    reading = (
        "<LidcReadMessage><ResponseHeader><SeriesInstanceUid>{}</SeriesInstanceUid></ResponseHeader></LidcReadMessage>"
    )
    (folder / "other.xml").write_text(reading.format("9.9.9"))
    result = medgen("preprocess", source, "--lidc-xml", folder, "-o", tmp_path / "a.h5")
    assert result.returncode == 0
    assert not contents(tmp_path / "a.h5")[1][0]["vector"].any()
    result = medgen("preprocess", source, "--lidc-xml", folder / "other.xml", "-o", tmp_path / "b.h5")
    assert result.returncode == 65
    assert "other.xml: the series it describes is not among the sources" in last_line(result)


def test_a_crop_that_cuts_the_finding_off_is_told(medgen: Run, make_ct: Callable[..., Path], tmp_path: Path) -> None:
    source = make_ct("one", volume(0))
    (tmp_path / "l.csv").write_text("case,slice,has_nodule,x,y,size,malignancy,texture\none,1,1,0.95,0.5,0.1,0,0\n")
    arguments = ("preprocess", source, "--labels", tmp_path / "l.csv", "--spacing", "0.5", "-o", tmp_path / "a.h5")
    result = medgen(*arguments, "--size", "12")
    assert result.returncode == 65
    assert "cuts its finding off" in last_line(result)
    assert medgen(*arguments, "--size", "40").returncode == 0
    (case,) = contents(tmp_path / "a.h5")[1]
    assert case["vector"][1, 1] * 40 == pytest.approx(0.95 * 24 + 8)


def test_background_is_masked_only_when_asked_and_noted(
    medgen: Run, make_ct: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_ct("one", np.full((2, 32, 32), 30, np.int16))
    for option, value in (((), 30), (("--mask-background",), -1000)):
        result = medgen("preprocess", source, *option, "--force", "-o", tmp_path / "a.h5")
        assert result.returncode == 0, result.stderr
        header, (case,) = contents(tmp_path / "a.h5")
        assert (case["image"] == value).all()
        assert ("background" in header.notes) == bool(option)


def test_equal_pixels_across_splits_are_named_and_dropped_on_demand(medgen: Run, tmp_path: Path) -> None:
    """A copy in another format, under a name with a space, of another patient: the pixels tell."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 9, 12)).astype(np.uint8)
    folder = tmp_path / "in"
    folder.mkdir()
    names = ("a.png", "b.png", "c.png", "copy of a.bmp", "z.tif")
    for name, image in zip(names, pixels[[0, 1, 2, 0, 1]], strict=True):
        Image.fromarray(image).save(folder / name)
    rows = zip(names, ("train", "train", "val", "test", "train"), ("ill", "ill", "ill", "well", "ill"), strict=True)
    table = "path,patient,split,label\n" + "".join(f"{name},{name},{split},{label}\n" for name, split, label in rows)
    (folder / "labels.csv").write_text(table)
    ask = ("preprocess", folder, "--labels", folder / "labels.csv", "--workers", 2)
    told = medgen(*ask, "-o", tmp_path / "a.h5", "--report", tmp_path / "r.json")
    assert told.returncode == 0, told.stderr
    lines = told.stderr.decode()
    assert "1 cases show exactly the pixels of a case of another split" in lines
    assert "1 cases show exactly the pixels of another case of their split" in lines
    assert "1 of the cases with equal pixels are labelled differently" in lines
    assert f"{folder}/copy of a.bmp (test) and {folder}/a.png (train)" in lines
    assert len(contents(tmp_path / "a.h5")[1]) == 5
    pairs = json.loads((tmp_path / "r.json").read_text())["duplicates"]
    assert [(pair["case"], pair["first"]) for pair in pairs] == [
        ({"source": 1, "file": 4}, {"source": 1, "file": 1}),
        ({"source": 1, "file": 5}, {"source": 1, "file": 2}),
    ]
    dropped = medgen(*ask, "-o", tmp_path / "b.h5", "--drop-duplicates")
    assert dropped.returncode == 0, dropped.stderr
    assert b"2 cases were dropped" in dropped.stderr
    cases = contents(tmp_path / "b.h5")[1]
    assert [case.split for case in cases] == ["train", "train", "val"]
    assert len({case["image"].tobytes() for case in cases}) == 3
    refused = medgen(*ask, "-o", tmp_path / "c.h5", "--drop-duplicates", "--shard", "0/2")
    assert (refused.returncode, "a shard sees only its own" in last_line(refused)) == (2, True)
