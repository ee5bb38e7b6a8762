"""A spool is a stack like any other, on disk: writers take it, and nothing of it is left behind."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.artifacts import stacks
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, ContentDigest, Intensity, SetHeader, Tail
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.spool import Spool
from medgen.artifacts.stacks import Stack, blocks
from medgen.artifacts.stream import StreamReader, StreamWriter
from medgen.errors import DataError, StorageError

HEADER = SetHeader("image", derive("make", {}), Intensity())


def spooled(array: np.ndarray, block: int = 3) -> Spool:
    spool = Spool(array.shape[1:], array.dtype)
    for first in range(0, len(array), block):
        spool.append(array[first : first + block])
    return spool


@settings(max_examples=40)
@given(
    depth=st.integers(0, 20),
    first=st.integers(0, 22),
    last=st.integers(0, 22),
    dtype=st.sampled_from([np.int16, np.float16, np.uint8, np.float32]),
    block=st.integers(1, 7),
)
def test_a_spool_reads_as_the_array_it_was_given(depth: int, first: int, last: int, dtype: Any, block: int) -> None:
    array = np.random.default_rng(depth).integers(0, 200, (depth, 1, 3, 5)).astype(dtype)
    spool = spooled(array, block)
    assert (spool.shape, spool.dtype, spool.ndim, len(spool)) == (array.shape, array.dtype, 4, depth)
    np.testing.assert_array_equal(spool[first:last], array[first:last])
    np.testing.assert_array_equal(np.asarray(spool), array)
    assert np.asarray(spool).dtype == dtype


@pytest.mark.parametrize("limit", [240, 700, 4 << 20])
def test_any_stack_in_blocks_of_any_size_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Files, streams and digests: of arrays whole, of arrays in blocks, of spools."""
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, (11, 1, 12, 10)).astype(np.int16)
    arrays = {"image": image, "spread": rng.random(image.shape).astype(np.float16), "label": np.arange(11)}
    strided = {"image": np.asfortranarray(image), "spread": arrays["spread"], "label": np.arange(22)[::2] // 2}
    spools = {"image": spooled(image), "spread": spooled(arrays["spread"], 11), "label": arrays["label"]}

    def written(name: str, content: dict[str, Stack]) -> tuple[bytes, bytes, Tail]:
        cases = [Case("a", content, text=("t",) * 11), Case("b", content)]
        buffer, digest = io.BytesIO(), ContentDigest(HEADER)
        stream = StreamWriter(buffer, HEADER)
        with create_set(tmp_path / name, HEADER) as writer:
            for case in cases:
                writer.write(case)
                stream.write(case)
                digest.add(case)
        stream.finish(digest.tail({}))
        return (tmp_path / name).read_bytes(), buffer.getvalue(), digest.tail({})

    whole = written("whole", arrays)
    monkeypatch.setattr(stacks, "BLOCK", limit)
    assert len(list(blocks(spools["image"]))) == {240: 11, 700: 6, 4 << 20: 1}[limit]
    for name, content in (("arrays", arrays), ("strided", strided), ("spools", spools)):
        assert written(name, content) == whole
    with open_set(tmp_path / "spools") as reader:
        for case in reader:
            np.testing.assert_array_equal(case["image"], image)
            np.testing.assert_array_equal(case["spread"], arrays["spread"])


def test_cases_on_disk_are_the_cases(make_set: Callable[..., Path], tmp_path: Path) -> None:
    """Of both encodings, and written again they give the same bytes."""
    path = make_set(count=4, depth=7)
    buffer = io.BytesIO()
    with open_set(path) as reader:
        whole = list(reader)
        stream = StreamWriter(buffer, reader.header)
        for case in reader.on_disk():
            stream.write(case)
        stream.finish(reader.tail)
        with create_set(tmp_path / "again.h5", reader.header) as writer:
            for case in StreamReader(io.BytesIO(buffer.getvalue()), "stream").on_disk():
                assert isinstance(case.stack("image"), Spool)
                writer.write(case)
        assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()
        for case, expected in zip(reader.on_disk(), whole, strict=True):
            assert case.facts() == expected.facts()
            for name, array in expected.arrays.items():
                stack = case.stack(name)
                assert not isinstance(stack, np.ndarray)
                assert (stack.shape, stack.dtype, stack.ndim, len(stack)) == (array.shape, array.dtype, array.ndim, 7)
                np.testing.assert_array_equal(case[name], array)
                for rows in (slice(2, 5), slice(5, 99), slice(3, 3), slice(5, 2), slice(None)):
                    np.testing.assert_array_equal(stack[rows], array[rows])


def test_damage_is_met_where_it_is_read(make_set: Callable[..., Path]) -> None:
    path = make_set(count=1, depth=4, fields=0)
    with open_set(path, random_access=True) as reader:
        content = reader.case(0)["image"][2].tobytes()
    data = bytearray(path.read_bytes())
    data[data.find(content) + 100] ^= 1
    path.write_bytes(data)
    with open_set(path, random_access=True) as reader:
        stack = reader.view(0).stack("image")
        assert stack[:2].shape == (2, 1, 16, 16)
        with pytest.raises(DataError, match=r"set\.h5: damaged"):
            stack[2:3]
    cut = io.BytesIO()
    with open_set(make_set(name="other.h5", count=1)) as reader:
        stream = StreamWriter(cut, reader.header)
        for case in reader:
            stream.write(case)
    with pytest.raises(DataError, match="truncated"):
        list(StreamReader(io.BytesIO(cut.getvalue()[:-100]), "stream").on_disk())


def test_a_case_gives_a_spool_as_an_array_or_as_it_is() -> None:
    array = np.arange(12, dtype=np.int16).reshape(3, 1, 2, 2)
    case = Case("c", {"image": spooled(array)})
    assert len(case) == 3
    assert isinstance(case["image"], np.ndarray)
    assert isinstance(case.stack("image"), Spool)
    case.check()
    assert replace(case, id="d")["image"].sum() == array.sum()


def test_its_file_has_no_name_and_lies_where_tmpdir_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    spool = spooled(np.ones((2, 1, 4, 4), np.int16))
    assert list(tmp_path.iterdir()) == []
    target = Path(f"/proc/self/fd/{spool._file.fileno()}")
    if target.is_symlink():
        assert str(target.readlink()).startswith(f"{tmp_path}/")


def test_a_full_disk_is_said_with_the_folder_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool((1, 4, 4), np.int16)
    spool._file.close()
    spool._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(StorageError, match=r"No space left on device; free some space, or set TMPDIR") as raised:
        spool.append(np.ones((1, 1, 4, 4), np.int16))
    assert str(raised.value).startswith(f"{tmp_path}: ")
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.ENOSPC
    assert len(spool) == 0
    spool._file.close()


def test_a_missing_temporary_folder_is_told_wherever_one_is_needed(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = tmp_path / "set.stream"
    with open_set(make_set()) as reader, stream.open("wb") as file:
        writer = StreamWriter(file, reader.header)
        for case in reader:
            writer.write(case)
        writer.finish(writer.digest.tail(reader.tail.inputs))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    told = r"No usable temporary directory found in \['.*none'\]; .* set TMPDIR"
    with pytest.raises(StorageError, match=told):
        Spool((1, 4, 4), np.int16)
    with pytest.raises(StorageError, match=told), open_set(stream, random_access=True):
        pass


def test_what_does_not_fit_is_refused() -> None:
    spool = Spool((1, 4, 4), np.int16)
    for wrong in (np.ones((1, 1, 4, 5), np.int16), np.ones((1, 1, 4, 4), np.int32)):
        with pytest.raises(ValueError, match="for a spool of"):
            spool.append(wrong)
    with pytest.raises(ValueError, match="slice after slice"):
        spool[::2]


def test_its_space_is_free_when_nothing_refers_to_it() -> None:
    spool = spooled(np.ones((2, 1, 4, 4), np.int16))
    descriptor = spool._file.fileno()
    del spool
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_written_case_is_not_kept(tmp_path: Path) -> None:
    """The table of cases is written now and then, but arrays must go with their case."""
    with create_set(tmp_path / "set.h5", HEADER) as writer:
        spool = spooled(np.ones((2, 1, 4, 4), np.int16))
        descriptor = spool._file.fileno()
        writer.write(Case("a", {"image": spool}))
        del spool
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
