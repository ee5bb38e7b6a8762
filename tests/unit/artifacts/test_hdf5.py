"""An HDF5 set is plain and undamaged, or it is refused: nothing else is followed, and no flipped bit passes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run
from medgen.errors import DataError

Change = Callable[[h5py.File, Path], None]


def write(path: Path) -> Path:
    """A small set with texts."""
    values = np.random.default_rng(0)
    with create_set(path, SetHeader("image", derive("preprocess", {}, sources="source-1"))) as writer:
        for name in ("case0", "case1", "case2", "case3"):
            image = values.integers(-1000, 400, (2, 1, 4, 4)).astype(np.int16)
            writer.write(Case(name, {"image": image}, text=("a small nodule", ""), modality=("CT", "CT")))
    return path


def snapshot(path: Path) -> Any:
    """Everything a reader gives, read whole and slice by slice."""
    with open_set(path, random_access=True) as stored:
        cases = [
            (case.facts(), {name: (case[name].shape, case[name].tobytes()) for name in case.arrays}) for case in stored
        ]
        arrays = {name: stored.read(name, range(stored.slices)).tobytes() for name in stored.arrays()}
        return stored.header, stored.tail, cases, arrays, stored.texts("text")


def replaced(file: h5py.File, name: str = "image", **changes: Any) -> None:
    """Write an array again in another way."""
    values = file[name][...]
    del file[name]
    plain = {"chunks": (1, *values.shape[1:]), "maxshape": (None, *values.shape[1:]), "fletcher32": True}
    file.create_dataset(name, data=values, **{**plain, **changes})


def external_storage(file: h5py.File, other: Path) -> None:
    shape, kind = file["image"].shape, file["image"].dtype
    del file["image"]
    file.create_dataset("image", shape, kind, external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def external_link(file: h5py.File, other: Path) -> None:
    del file["image"]
    file["image"] = h5py.ExternalLink(str(other), "/image")


def external_table(file: h5py.File, other: Path) -> None:
    del file["case"]
    file["case"] = h5py.ExternalLink(str(other), "/case")


def external_column(file: h5py.File, other: Path) -> None:
    del file["case/thickness"]
    file["case/thickness"] = h5py.ExternalLink(str(other), "/case/thickness")


def soft_link(file: h5py.File, other: Path) -> None:
    file.move("image", "label")
    file["image"] = h5py.SoftLink("/label")


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout(file["image"].shape, file["image"].dtype)
    layout[:] = h5py.VirtualSource(str(other), "image", file["image"].shape)
    del file["image"]
    file.create_virtual_dataset("image", layout)


def references(file: h5py.File, other: Path) -> None:
    file.create_dataset("score", data=np.array([file["image"].ref], h5py.ref_dtype), chunks=(1,), maxshape=(None,))


def lists(file: h5py.File, other: Path) -> None:
    file.create_dataset("score", (3,), h5py.vlen_dtype(np.int32), chunks=(1,), maxshape=(None,))


def records(file: h5py.File, other: Path) -> None:
    kind = np.dtype([("a", "i4")])
    file.create_dataset("score", data=np.zeros(3, kind), chunks=(1,), maxshape=(None,), fletcher32=True)


def group(file: h5py.File, other: Path) -> None:
    file.create_group("label")


def type_only(file: h5py.File, other: Path) -> None:
    file["label"] = np.dtype("f8")


def circle(file: h5py.File, other: Path) -> None:
    file["case/loop"] = file["/"]


def missing_slices(file: h5py.File, other: Path) -> None:
    values = file["image"][...]
    del file["image"]
    plain = {"chunks": (1, *values.shape[1:]), "maxshape": (None, *values.shape[1:]), "fletcher32": True}
    file.create_dataset("image", values.shape, values.dtype, **plain)[:-1] = values[:-1]


def fewer_slices(file: h5py.File, other: Path) -> None:
    file["image"].resize(len(file["image"]) - 1, axis=0)


def overlapping_cases(file: h5py.File, other: Path) -> None:
    file["case/start"][1] = 0


def fewer_texts(file: h5py.File, other: Path) -> None:
    file["text_ends"].resize(len(file["text_ends"]) - 1, axis=0)


CHANGES = [
    external_storage, external_link, external_table, external_column, soft_link, virtual, references, lists, records,
    group, type_only, circle, missing_slices, fewer_slices, fewer_texts, overlapping_cases,
    lambda file, _: replaced(file, compression="gzip"),
    lambda file, _: replaced(file, shuffle=True),
    lambda file, _: replaced(file, fletcher32=False),
    lambda file, _: replaced(file, chunks=None, maxshape=None, fletcher32=False),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_medgen_does_not_write_it_does_not_read(
    tmp_path: Path, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = write(tmp_path / "set.h5"), write(tmp_path / "other.h5")
    with h5py.File(path, "a") as file:
        change(file, other)
    for command in (["merge", str(path), "-o", str(tmp_path / "out.h5")], ["info", str(path)], ["check", str(path)]):
        assert run(command) == 65, command
        assert "set.h5: " in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out.h5").exists()


def test_a_set_written_again_in_the_same_way_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "set.h5")
    before = snapshot(path)
    with h5py.File(path, "a") as file:
        replaced(file)
    assert snapshot(path) == before


def flipped(path: Path, whole: bytes, place: int) -> Path:
    damaged = bytearray(whole)
    damaged[place] ^= 1 << (place % 8)
    path.write_bytes(damaged)
    return path


def test_no_flipped_bit_passes(tmp_path: Path) -> None:
    path = write(tmp_path / "set.h5")
    before, whole = snapshot(path), path.read_bytes()
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))  # the rest is mostly room in chunks that nothing reads
    caught = 0
    for place in [*used[:: len(used) // 150].tolist(), *range(1, len(whole), len(whole) // 50)]:
        try:
            assert snapshot(flipped(path, whole, place)) == before, place
        except DataError:
            caught += 1
    assert caught > 75


@pytest.mark.parametrize("words", [b'"provenance"', b'"digest"', b"case2", b"a small nodule", b"train"])
def test_flipped_bits_in_texts_are_noticed_when_they_are_read(tmp_path: Path, words: bytes) -> None:
    path = write(tmp_path / "set.h5")
    whole = path.read_bytes()
    first = whole.index(words)
    for place in range(first, first + len(words)):
        with pytest.raises(DataError), open_set(flipped(path, whole, place)) as reader:
            list(reader)


def test_sets_of_medgen_0_1_are_held_to_their_digest(tmp_path: Path, age: Callable[..., Path]) -> None:
    path = write(tmp_path / "set.h5")
    before = snapshot(path)
    age(path)
    with h5py.File(path) as file:
        assert isinstance(file.attrs["header"], str)
        assert h5py.check_string_dtype(file["case/id"].dtype)
    assert snapshot(path) == before
    with h5py.File(path, "a") as file:
        file["text"][0] = "a smell nodule"
    with open_set(path) as reader, pytest.raises(DataError, match="digest"):
        list(reader)
    with open_set(path) as reader, pytest.raises(DataError, match="digest"):
        list(reader.on_disk())
    assert run(["merge", str(path), "-o", str(tmp_path / "out.h5")]) == 65
    assert not (tmp_path / "out.h5").exists()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def copied_over(path: Path) -> None:
    """Another set of the same shape, copied over it a while after it was opened."""
    path.write_bytes(path.with_name("other.h5").read_bytes())
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 60))


@pytest.mark.parametrize("change", [cut, copied_over])
def test_a_set_changed_while_it_is_read_is_told(change: Callable[[Path], None], tmp_path: Path) -> None:
    """HDF5 would give zeros, or the pixels of the other set."""
    path, _ = write(tmp_path / "set.h5"), write(tmp_path / "other.h5")
    with open_set(path, random_access=True) as stored:
        case = stored.view(3)
        change(path)
        reads: list[Callable[[], Any]] = [
            lambda: stored.read("image", [7]),
            lambda: case.stack("image")[0:1],
            lambda: stored.texts("text", [7]),
        ]
        for read in reads:
            with pytest.raises(DataError, match=r"set\.h5: was changed while it was read"):
                read()


def test_a_set_that_another_replaces_is_read_on(tmp_path: Path) -> None:
    path, _ = write(tmp_path / "set.h5"), write(tmp_path / "other.h5")
    before = snapshot(path)
    with open_set(path, random_access=True) as stored:
        path.with_name("other.h5").rename(path)
        arrays = {name: stored.read(name, range(stored.slices)).tobytes() for name in stored.arrays()}
    assert arrays == before[3]


def test_a_set_that_another_program_has_locked_is_read_and_not_called_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "set.h5")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as `flock set.h5 medgen ...` does
        assert snapshot(path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_an_open_set_takes_one_descriptor_so_that_many_shards_can_be_joined(tmp_path: Path) -> None:
    path = write(tmp_path / "set.h5")
    before = len(os.listdir("/proc/self/fd"))
    with open_set(path) as reader:
        assert len(os.listdir("/proc/self/fd")) == before + 1
        assert len(list(reader)) == 4
