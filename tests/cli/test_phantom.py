"""`medgen phantom`, run for real."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medgen.artifacts.sets import open_set
from medgen.artifacts.stored import CaseRow

Run = Callable[..., subprocess.CompletedProcess[bytes]]
SMALL = ("--size", 48, "--slices", 5, "--nodule-diameter", "20,40", "--healthy-fraction", 0.3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def last_line(result: subprocess.CompletedProcess[bytes]) -> str:
    return result.stderr.decode().strip().splitlines()[-1]


def test_same_seed_same_bytes_by_one_or_two_processes(medgen: Run, tmp_path: Path) -> None:
    one = medgen("phantom", "chest-ct", "-n", 4, "-o", tmp_path / "one", "--seed", 5, "--workers", 1, *SMALL)
    two = medgen("phantom", "chest-ct", "-n", 3, "-o", tmp_path / "two", "--seed", 5, "--workers", 2, *SMALL)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert (one.stdout, two.stdout) == (b"", b"")
    four, three = contents(tmp_path / "one"), contents(tmp_path / "two")
    for files in (four, three):
        listed = json.loads(files.pop(".medgen.json"))["files"]
        assert listed == {name: len(content) for name, content in files.items()}
    assert sorted(four) == sorted(
        ["labels.csv", "nodules.csv", "captions.csv", "truth.csv"]
        + [f"dicom/case-{index:04d}.zip" for index in range(4)]
        + [f"masks/case-{index:04d}.nii.gz" for index in range(4)]
    )
    for name, content in three.items():  # a case does not depend on how many there are
        assert four[name].startswith(content) if name.endswith(".csv") else four[name] == content
    rows = list(csv.DictReader((tmp_path / "one/labels.csv").open()))
    assert rows
    assert list(rows[0]) == ["case", "slice", "has_nodule", "x", "y", "size", "malignancy", "texture"]
    assert {row["case"] for row in rows} <= {f"case-{index:04d}" for index in range(4)}


def test_options_come_from_files_too(medgen: Run, tmp_path: Path) -> None:
    (tmp_path / "options.toml").write_text("[phantom]\nsize = 64\nthickness = 2.5\n")
    result = medgen(
        "phantom",
        "chest-ct",
        "-o",
        tmp_path / "x",
        "--config",
        tmp_path / "options.toml",
        "--slices",
        7,
        "--print-config",
    )
    assert result.returncode == 0
    assert not (tmp_path / "x").exists()
    for line in ("size = 64", "slices = 7", "thickness = 2.5"):
        assert line in result.stdout.decode()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("chest-xt", "-o", "out"), 2, "did you mean 'chest-ct'?"),
        (("teapot", "-o", "out"), 2, "kinds: chest-ct"),
        (("chest-ct", "-n", 0, "-o", "out"), 2, "'--count'"),
        (("chest-ct", "-o", "out", "--nodules", "some"), 2, "expected LOW,HIGH"),
        (("chest-ct", "-o", "out", "--nodules", "3,1"), 78, "smaller number first"),
        (("chest-ct", "-o", "out", "--size", 8), 78, "size"),
        (("chest-ct", "-o", "out", "--healthy-fraction", 1.5), 78, "--healthy-fraction 1.5: expected float <= 1"),
        (("chest-ct", "-o", "out", "--seed", -1), 78, "seed"),
        (("chest-ct", "-o", "missing/out"), 73, "does not exist"),
    ],
)
def test_bad_calls_say_what_is_wrong_and_leave_nothing(
    medgen: Run, tmp_path: Path, arguments: tuple[object, ...], status: int, words: str
) -> None:
    result = medgen("phantom", *arguments, cwd=tmp_path)
    assert result.returncode == status, result.stderr
    assert words in last_line(result)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_forced(medgen: Run, tmp_path: Path) -> None:
    call = ("phantom", "chest-ct", "-o", tmp_path / "out", "--workers", 1, *SMALL)
    assert medgen(*call, "-n", 2).returncode == 0
    before = contents(tmp_path / "out")
    refused = medgen(*call)
    assert refused.returncode == 73
    assert "give --force to replace it" in last_line(refused)
    assert contents(tmp_path / "out") == before
    assert medgen(*call, "--force").returncode == 0
    after = contents(tmp_path / "out")
    assert len(after) < len(before)
    (tmp_path / "out" / "mine").write_text("precious")
    refused = medgen(*call, "--force")
    assert refused.returncode == 73
    assert "out: holds mine, which medgen did not write" in last_line(refused)
    assert contents(tmp_path / "out") == {**after, "mine": b"precious"}


def test_stopped_half_way_it_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medgen.cli.app", "phantom", "chest-ct", "-n", "500", "-o", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--size", "32", "--slices", "3", "--workers", "2"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*/dicom/case-0003.zip")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert stderr.decode().strip().splitlines()[-1] == "medgen phantom: terminated"
    assert list(tmp_path.iterdir()) == []


def in_session(session: int) -> list[str]:
    """Processes that are not dead yet among those that one command started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append(stat.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the list of processes from /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_it_takes_its_workers_along_and_the_next_run_tidies_up(
    medgen: Run, tmp_path: Path, workers: int
) -> None:
    command = [sys.executable, "-m", "medgen.cli.app", "phantom", "chest-ct", "-n", "500", "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, *map(str, SMALL), "--workers", str(workers)], start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*/dicom/case-0003.zip")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert medgen("phantom", "chest-ct", "-o", tmp_path / "out", *SMALL).returncode == 0
    beside = list(tmp_path.glob(".out.*"))
    assert len(beside) == 1, "what another process is writing was removed"
    assert list(beside[0].glob("dicom/*"))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while in_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert in_session(process.pid) == []
    assert beside[0].exists()
    assert medgen("phantom", "chest-ct", "-o", tmp_path / "out", *SMALL, "--force").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_at_once_are_one_and_a_refusal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medgen.cli.app", "phantom", "chest-ct", "-n", "3", "-o", str(tmp_path / "out")]
    both = [
        subprocess.Popen([*command, *map(str, SMALL), "--seed", seed, "--workers", "1"], stderr=subprocess.PIPE)
        for seed in ("1", "2")
    ]
    told = [process.communicate(timeout=120)[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 73], told
    assert "out: exists already" in told[both[0].returncode == 0].splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_phantom_folder_goes_straight_into_preprocess(medgen: Run, tmp_path: Path) -> None:
    made = medgen("phantom", "chest-ct", "-n", 4, "-o", tmp_path / "ct", *SMALL, "--set", "scout_fraction=1.0")
    assert made.returncode == 0, made.stderr
    source = ["preprocess", tmp_path / "ct/dicom", "--labels", tmp_path / "ct/labels.csv", "--size", "32"]
    read = medgen(*source, "--masks", tmp_path / "ct/masks", "-o", tmp_path / "images.h5")
    assert read.returncode == 0, read.stderr
    assert b"4 localizers skipped" in read.stderr
    rows = list(csv.DictReader((tmp_path / "ct/labels.csv").open()))
    with open_set(tmp_path / "images.h5", random_access=True) as stored:
        assert len(stored) == 4
        assert (stored.column("vector")[:, 0] > 0).sum() == len(rows)
        for case in stored:  # masks and vectors speak of the same slices
            large = case["vector"][:, 3] > 0.1
            assert case["mask"][large].any(axis=(1, 2, 3)).all()
            assert not case["mask"][case["vector"][:, 0] == 0].any()


def test_thick_and_thin_series_of_a_patient_are_a_pair_after_preprocess(medgen: Run, tmp_path: Path) -> None:
    few = ("--size", 32, "--slices", 12, "--thickness", 1, "--healthy-fraction", 1)
    made = medgen("phantom", "chest-ct", "-n", 4, "-o", tmp_path / "ct", *few, "--thick", 4, "--workers", 1)
    assert made.returncode == 0, made.stderr
    read = medgen("preprocess", tmp_path / "ct/dicom", "-o", tmp_path / "images.h5", "--split-fractions", "0.5,0.5")
    assert read.returncode == 0, read.stderr
    with open_set(tmp_path / "images.h5", random_access=True) as stored:
        pairs: dict[str, list[CaseRow]] = {}
        for row in stored.cases:
            pairs.setdefault(row.frame, []).append(row)
        assert len(pairs) == 4
        for pair in pairs.values():
            thin, thick = sorted(pair, key=lambda row: row.thickness)
            assert (thin.count, thin.spacing[0], thin.thickness) == (12, 1.0, 1.0)
            assert (thick.count, thick.spacing[0], thick.thickness) == (3, 4.0, 4.0)
            assert thin.split == thick.split
            assert thick.positions[0] - thin.positions[0] == pytest.approx(1.5)


def test_a_dental_folder_goes_straight_into_preprocess(medgen: Run, tmp_path: Path) -> None:
    ask = ("-n", 6, "--size", 64, "--view", "half", "--lesions", "periapical,bone-loss", "--seed", 2, "--workers", 2)
    made = medgen("phantom", "dental", "-o", tmp_path / "x", *ask)
    assert made.returncode == 0, made.stderr
    source = [
        "preprocess",
        tmp_path / "x/dicom",
        "--labels",
        tmp_path / "x/labels.csv",
        "--masks",
        tmp_path / "x/masks",
    ]
    read = medgen(*source, "--size", 32, "-o", tmp_path / "images.h5")
    assert read.returncode == 0, read.stderr
    rows = list(csv.DictReader((tmp_path / "x/labels.csv").open()))
    kinds = {row["label"] for row in rows}
    assert "normal" in kinds
    assert kinds - {"normal"}
    assert kinds <= {"normal", "periapical", "bone-loss"}
    with open_set(tmp_path / "images.h5", random_access=True) as stored:
        names = list(stored.header.label_names)
        assert names == sorted(kinds)
        for case in stored:
            assert case["mask"].any() == (names[int(case["label"][0])] != "normal")


@pytest.mark.parametrize(
    ("kind", "channels", "patients", "classes"),
    [
        ("fundus", 3, 4, ("background", "disc", "vessel", "microaneurysm", "haemorrhage", "exudate", "scar", "naevus")),
        ("endoscopy", 3, 2, ("background", "polyp")),
        ("oct", 1, 4, ("background", "retina", "druse", "cyst", "detachment")),
    ],
)
def test_pictures_go_straight_into_preprocess_with_classes_patients_and_captions(
    medgen: Run, tmp_path: Path, kind: str, channels: int, patients: int, classes: tuple[str, ...]
) -> None:
    ask = ("-n", 8, "--size", 64, "--seed", 3)
    one = medgen("phantom", kind, "-o", tmp_path / "x", *ask, "--workers", 2)
    two = medgen("phantom", kind, "-o", tmp_path / "y", *ask, "--workers", 1)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert contents(tmp_path / "x") == contents(tmp_path / "y")
    told = list(csv.DictReader((tmp_path / "x/classes.csv").open()))
    assert [(row["name"], row["value"]) for row in told] == [(name, str(value)) for value, name in enumerate(classes)]
    rows = list(csv.DictReader((tmp_path / "x/labels.csv").open()))
    assert [row["path"].rpartition("_")[2] for row in rows] == [f"{index:05d}.png" for index in range(8)]
    assert len({row["patient"] for row in rows}) == patients
    images = sorted(path.name for path in (tmp_path / "x/images").iterdir())
    assert sorted(path.name for path in (tmp_path / "x/masks").iterdir()) == images
    read = medgen(
        "preprocess",
        tmp_path / "x/labels.csv",
        "--masks",
        tmp_path / "x/masks",
        "--size",
        64,
        "-o",
        tmp_path / "set.h5",
    )
    assert read.returncode == 0, read.stderr
    assert b"not used" not in read.stderr
    with open_set(tmp_path / "set.h5", random_access=True) as stored:
        assert len(stored) == 8
        assert stored.header.mask_names == classes
        names = list(stored.header.label_names)
        for case in stored:
            assert case["image"].shape == (1, channels, 64, 64)
            assert case.text[0].startswith(f"{kind} of the ")
            assert set(np.unique(case["mask"])) <= set(range(len(classes)))
            seen = case["mask"] > {"fundus": 2, "oct": 1}.get(kind, 0)  # beyond what is healthy
            assert seen.any() == (names[int(case["label"][0])] != "normal")


def test_a_kind_refuses_what_only_another_has(medgen: Run, tmp_path: Path) -> None:
    result = medgen("phantom", "dental", "-o", tmp_path / "x", "--slices", 3)
    assert result.returncode == 78
    assert "--slices does not apply here" in last_line(result)
    result = medgen("phantom", "dental", "-o", tmp_path / "x", "--lesions", "cariess")
    assert result.returncode == 78
    assert "--lesions cariess; did you mean 'caries'?" in last_line(result)
    result = medgen("phantom", "dental", "-o", tmp_path / "x", "--lesions", "caries,polyp")
    assert result.returncode == 78
    assert "--lesions caries,polyp: polyp; choose from caries, periapical, bone-loss, fracture" in last_line(result)
