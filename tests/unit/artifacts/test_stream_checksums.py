"""No damage to a stream passes: no flipped bit, no blob that is missing, twice there, or in another's place."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from medgen.artifacts.schema import Case
from medgen.artifacts.stream import StreamReader
from medgen.cli.app import run
from medgen.errors import DataError
from tests.unit.artifacts.test_sets import as_stream


def blobs(stream: bytes) -> Iterator[bytes]:
    while stream:
        length = 8 + int.from_bytes(stream[:8], "little")
        entries = [entry for name, entry in json.loads(stream[8:length]).items() if name != "__metadata__"]
        length += max((entry["data_offsets"][1] for entry in entries), default=0)
        yield stream[:length]
        stream = stream[length:]


def without_checksums(stream: bytes) -> bytes:
    """The stream as medgen 0.1 wrote it."""
    old = b""
    for blob in blobs(stream):
        length = int.from_bytes(blob[:8], "little")
        header = json.loads(blob[8 : 8 + length])
        del header["checksum"]
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        old += len(encoded).to_bytes(8, "little") + encoded + blob[8 + length : -4]
    return old


def damaged(stream: bytes) -> bytes:
    """The stream with a bit flipped in the last array of its second case."""
    header, first, second, *_ = map(len, blobs(stream))
    content = bytearray(stream)
    content[header + first + second - 5] ^= 1
    return bytes(content)


def read(stream: bytes) -> list[Case]:
    return list(StreamReader(io.BytesIO(stream), "stream"))


@pytest.fixture
def stream(make_set: Callable[..., Path]) -> bytes:
    return as_stream(make_set(count=3, size=4))


def test_no_flipped_bit_passes(stream: bytes) -> None:
    read(stream)
    for place in range(len(stream)):
        content = bytearray(stream)
        content[place] ^= 1 << (place % 8)
        with pytest.raises(DataError):
            read(bytes(content))


def test_the_case_that_is_damaged_is_never_handed_on(stream: bytes) -> None:
    cases = iter(StreamReader(io.BytesIO(damaged(stream)), "stream"))
    assert next(cases).id == "case0"
    with pytest.raises(DataError, match="checksum"):
        next(cases)


@pytest.mark.parametrize("order", [(0, 2, 1, 3, 4), (0, 1, 1, 3, 4), (0, 1, 3, 4), (0, 1, 2, 2, 4), (0, 1, 2, 3, 3, 4)])
def test_whole_blobs_in_other_places_are_damage(stream: bytes, order: Sequence[int]) -> None:
    parts = list(blobs(stream))
    assert len(parts) == 5
    assert b"".join(parts) == stream
    with pytest.raises(DataError):
        read(b"".join(parts[index] for index in order))


def test_streams_of_medgen_0_1_are_read_and_held_to_their_digest(stream: bytes) -> None:
    old = without_checksums(stream)
    for ours, theirs in zip(read(stream), read(old), strict=True):
        assert ours.facts() == theirs.facts()
        for name in ours.arrays:
            np.testing.assert_array_equal(ours[name], theirs[name])
    with pytest.raises(DataError, match="digest"):
        read(damaged(old))
    first, *rest = blobs(stream)
    with pytest.raises(DataError, match="checksum"):  # the beginning alone does not make a stream an old one
        read(without_checksums(first) + b"".join(rest))


def test_numpy_users_can_read_a_blob_with_safetensors(stream: bytes) -> None:
    from safetensors.numpy import load

    blob = list(blobs(stream))[1]
    case = read(stream)[0]
    theirs = load(blob)
    assert theirs.pop("checksum").shape == (1,)
    assert theirs.keys() == case.arrays.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(array, case[name])


def test_merge_makes_nothing_of_a_damaged_stream(
    stream: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in (("new", stream), ("old", without_checksums(stream))):
        (tmp_path / name).write_bytes(damaged(content))
        assert run(["merge", str(tmp_path / name), "-o", str(tmp_path / "out.h5")]) == 65
        assert "damaged" in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "out.h5").exists()
