"""Whatever happens to a reader at a file is the failure of that file, and of no other."""

from __future__ import annotations

import os
import signal
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medgen.artifacts.schema import Case
from medgen.artifacts.sets import open_set
from medgen.errors import DataError
from medgen.imaging.cases import planning, preprocessing, work
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.planning import SourceInputs
from medgen.imaging.cases.preprocessing import Done, preprocess
from medgen.imaging.reading import dicom, pixels
from medgen.imaging.reading.archive import Entry, enumerate_sources
from medgen.imaging.reading.formats import read, scan
from medgen.reporting import Silent

WriteSlice = Callable[..., Path]
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (16, 16)).astype(np.int16)


class Panic(BaseException):
    """As what pyo3 raises when Rust panics: no Exception."""


def entry_of(path: Path) -> Entry:
    return Entry(str(path), "", path.stat().st_size, 0, path.name)


def outcome(path: Path) -> str:
    """What is told of a file: why it cannot be read."""
    with pytest.raises(DataError) as told:
        facts = scan(entry_of(path), "")
        read(entry_of(path), facts[0].format, [0], hu=True)
    return str(told.value)


@pytest.mark.parametrize("error", [Panic("index out of bounds"), RecursionError("too deep"), MemoryError()])
def test_whatever_a_reader_raises_names_the_file(
    write_slice: WriteSlice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = write_slice(tmp_path / "a.dcm", VOXELS)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(dicom, "_facts", fail)
    told = outcome(path)
    assert told.startswith(f"{path}: not a readable DICOM file: ")
    assert (str(error) or "MemoryError") in told
    monkeypatch.undo()
    monkeypatch.setattr(pixels, "_decode", fail)
    facts = scan(entry_of(path), "")
    with pytest.raises(DataError, match=r"a\.dcm: the pixels cannot be decoded: ."):
        read(entry_of(path), "dicom", [0], hu=facts[0].kind == "hu")


def test_a_user_who_interrupts_is_no_fault_of_the_file(
    write_slice: WriteSlice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_slice(tmp_path / "a.dcm", VOXELS)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dicom, "_facts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        scan(entry_of(path), "")


def damaged_rle(path: Path) -> None:
    """Runs of 128 equal bytes, more than the image has pixels: the decoder, written in Rust, panics."""
    dataset = pydicom.dcmread(path)
    dataset.compress("1.2.840.10008.1.2.5", encoding_plugin="pylibjpeg", generate_instance_uid=False)
    dataset.save_as(path, overwrite=True)
    content = bytearray(path.read_bytes())
    frame = content.index(b"\xfe\xff\x00\xe0", content.index(b"\xe0\x7f\x10\x00") + 20) + 8
    content[frame + 64 : frame + 164] = b"\x81" * 100
    path.write_bytes(bytes(content))


def nested(path: Path) -> None:
    """Sequences of undefined length in each other, 300 deep; each takes the parser some calls deeper."""
    opening, item = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    content = path.read_bytes()
    at = content.index(b"\x10\x00\x10\x00PN")  # the patient's name
    path.write_bytes(content[:at] + (opening + item) * 300 + closing * 300 + content[at:])


def unknown_vr(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00ZZ"))


def wrong_vr(path: Path) -> None:
    """Rows that are said to be numbers of eight bytes, but have two."""
    path.write_bytes(path.read_bytes().replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00FD"))


def endless_frames(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 2_000_000_000
    dataset.save_as(path, overwrite=True)


DAMAGES = {"rle": damaged_rle, "nested": nested, "vr": unknown_vr, "wrong": wrong_vr, "frames": endless_frames}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_dicom_is_named(write_slice: WriteSlice, tmp_path: Path, name: str) -> None:
    path = write_slice(tmp_path / f"{name}.dcm", VOXELS)
    DAMAGES[name](path)
    assert outcome(path).startswith(f"{path}: ")


def test_a_header_that_says_more_voxels_than_can_be_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "v.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<8h", content, 40, 4, 5, 4, 32767, 32767, 1, 1, 1)  # a thousand million slices
    path.write_bytes(bytes(content))
    assert "cut short" in outcome(path)


def run(folder: Path, out: Path) -> tuple[Done, list[Case]]:
    """What comes of a folder under --keep-going, and the cases."""
    done = preprocess(SourceInputs((str(folder),)), str(out), PreprocessOptions(keep_going=True, workers=2), Silent())
    with open_set(out) as reader:
        return done, list(reader)


def series(write_slice: WriteSlice, folder: Path, number: int, depth: int = 3) -> None:
    for z in range(depth):
        tags = {"SeriesInstanceUID": f"1.2.{number}", "SOPInstanceUID": f"1.2.{number}.{z}", "PatientID": str(number)}
        write_slice(folder / f"{number}-{z}.dcm", VOXELS + z, z=z, **tags)


def scan_or_die(task: work.ScanTask) -> object:
    if any("deadly" in entry.name for entry in task.entries):
        os.kill(os.getpid(), signal.SIGSEGV)
    return work.scan(task)


def read_or_die(task: work.ReadTask) -> object:
    if any("deadly" in piece.entry.name for piece in task.pieces):
        os.kill(os.getpid(), signal.SIGSEGV)
    return work.read(task)


@pytest.mark.parametrize("stage", ["scan", "read"])
def test_a_file_that_kills_its_worker_is_left_out_alone(
    write_slice: WriteSlice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    for number in range(4):
        series(write_slice, tmp_path / "in", number)
    (tmp_path / "in" / "1-1.dcm").rename(tmp_path / "in" / "1-deadly.dcm")
    if stage == "scan":
        monkeypatch.setattr(planning, "scan", scan_or_die)
    else:
        monkeypatch.setattr(preprocessing, "read", read_or_die)
    done, cases = run(tmp_path / "in", tmp_path / "a.h5")
    (reason,) = done.left_out
    assert reason.startswith(f"{tmp_path / 'in' / '1-deadly.dcm'}: the worker process on it was killed by SIGSEGV")
    # Of a file that cannot even be scanned nobody knows that it belongs to a series.
    assert [len(case) for case in cases] == ([3, 2, 3, 3] if stage == "scan" else [3, 3, 3])


def test_a_worker_that_was_killed_by_chance_costs_nothing(
    write_slice: WriteSlice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series(write_slice, tmp_path / "in", 0)
    expected = run(tmp_path / "in", tmp_path / "a.h5")[1]
    monkeypatch.setattr(planning, "scan", scan_and_die_once)
    monkeypatch.setattr(preprocessing, "read", read_and_die_once)
    monkeypatch.setenv("MEDGEN_TEST_FOLDER", str(tmp_path))
    done, cases = run(tmp_path / "in", tmp_path / "b.h5")
    assert done.left_out == ()
    assert cases[0]["image"].tolist() == expected[0]["image"].tolist()
    assert {file.name for file in tmp_path.glob("died-*")} == {"died-scan", "died-read"}


def die_once(entry: Entry, stage: str) -> None:
    mark = Path(entry.path).parent.parent / f"died-{stage}"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def scan_and_die_once(task: work.ScanTask) -> object:
    die_once(task.entries[0], "scan")
    return work.scan(task)


def read_and_die_once(task: work.ReadTask) -> object:
    die_once(task.pieces[0].entry, "read")
    return work.read(task)


def test_a_folder_of_faults_costs_only_what_is_faulty(write_slice: WriteSlice, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in range(2):
        series(write_slice, folder, number)
    for number, (name, damage) in enumerate(DAMAGES.items()):
        tags = {"SeriesInstanceUID": f"1.3.{number}", "SOPInstanceUID": f"1.3.{number}.1"}
        damage(write_slice(folder / f"{name}.dcm", VOXELS, **tags))
    (folder / "gone.dcm").symlink_to(tmp_path / "nowhere")
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED):
        damaged_archive(folder, write_slice(tmp_path / "raw.dcm", VOXELS, SeriesInstanceUID="1.4"), method)
    done, cases = run(folder, tmp_path / "a.h5")
    faulty = {
        *("rle.dcm", "nested.dcm", "vr.dcm", "wrong.dcm", "frames.dcm", "gone.dcm"),
        *(f"{method}.zip!bad.dcm" for method in (14, 12, 8)),
    }
    told = {reason.split(": ")[0].rpartition("/")[2] for reason in done.left_out}
    assert told == faulty
    assert len(done.left_out) == len(faulty)
    assert [len(case) for case in cases] == [3, 3]


def damaged_archive(folder: Path, file: Path, method: int) -> None:
    """An archive of one member whose compressed bytes are overwritten in the middle."""
    path = folder / f"{method}.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.write(file, "bad.dcm")
        (info,) = archive.infolist()
    content = bytearray(path.read_bytes())
    middle = info.header_offset + 30 + len("bad.dcm") + info.compress_size // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(bytes(content))


def test_a_damaged_copy_is_a_fault_of_its_own(write_slice: WriteSlice, tmp_path: Path) -> None:
    """It has the size and the instance of the whole one, with which it is compared before any pixel is read."""
    voxels = np.random.default_rng(1).integers(-1000, 1000, (128, 128)).astype(np.int16)
    whole = write_slice(tmp_path / "in" / "whole.dcm", voxels)
    damaged_archive(tmp_path / "in", whole, zipfile.ZIP_DEFLATED)
    done, cases = run(tmp_path / "in", tmp_path / "a.h5")
    (reason,) = done.left_out
    assert "8.zip!bad.dcm: damaged" in reason
    assert [len(case) for case in cases] == [1]


def test_folders_behind_links_are_read_once_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.dcm").write_bytes(b"x")
    (tmp_path / "in" / "sub" / "a.dcm").write_bytes(b"x")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "sub" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self.dcm").symlink_to("self.dcm")
    (tmp_path / "in" / "notes.txt").symlink_to("nowhere")  # no image by its name, whatever it leads to
    os.mkfifo(tmp_path / "in" / "pipe")
    found = enumerate_sources([str(tmp_path / "in")])
    assert [entry.within for entry in found.entries] == ["in/linked/b.dcm", "in/sub/a.dcm"]
    assert found.refused == [(str(tmp_path / "in" / "self.dcm"), "a link that leads nowhere")]
    assert found.skipped == 2
