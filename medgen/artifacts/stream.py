"""A set in a pipe, as safetensors blobs one after another: a header, one blob per case, an end marker with the counts.

Each blob states its own length (8 bytes of length, JSON, data), so pipeline stages overlap and memory use stays at one
case. A blob's last array is the CRC-32 of the stream so far, so that a damaged, missing or misplaced blob is noticed at
once. A stream without its end marker is truncated, which is an error. Streams of medgen 0.1 have no checksums; they are
checked against the digest in their end marker.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import IO, Any

import msgspec
import numpy as np

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import READABLE_SCHEMAS, Array, Case, ContentDigest, SetHeader, Tail, as_bytes
from medgen.artifacts.spool import Spool
from medgen.artifacts.stacks import Stack, block_length, blocks
from medgen.artifacts.synthetic import synthetic_in_old_set
from medgen.artifacts.tensors.header import HDF5_MAGIC
from medgen.artifacts.tensors.layout import KEY, TensorEntry, head
from medgen.artifacts.writer import SetWriter
from medgen.errors import DataError

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16,
    "I8": np.int8, "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "BOOL": np.bool_,
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_CHECKSUM = TensorEntry("checksum", "U32", (1,), 4)  # little-endian; of all bytes before it except other checksums
_LONGEST_HEADER = 64 << 20
_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 1 << 20

_ReadStack = Callable[[tuple[int, ...], np.dtype[Any]], Stack]


class StreamWriter(SetWriter):
    """Write a set as a stream to `file` (binary)."""

    def __init__(self, file: IO[bytes], header: SetHeader) -> None:
        super().__init__(header)
        self._file = file
        self._checksum = 0
        _widen_pipe(file)
        self._write_blob({"part": "header", "header": self.header.facts()}, {})

    def _put(self, case: Case) -> None:
        self._write_blob({"part": "case", "case": case.facts()}, case.arrays)

    def finish(self, tail: Tail) -> None:
        """Write the end marker; without it, readers report the stream as truncated."""
        self._write_blob({"part": "end", "end": msgspec.to_builtins(tail)}, {})

    def _write_blob(self, facts: Mapping[str, Any], arrays: Mapping[str, Stack]) -> None:
        entries = [
            TensorEntry(name, _NAMES[stack.dtype], stack.shape, math.prod(stack.shape) * stack.dtype.itemsize)
            for name, stack in sorted(arrays.items())
        ]
        self._write(head(msgspec.json.encode(facts, order="sorted").decode(), [*entries, _CHECKSUM]))
        for entry in entries:
            for block in blocks(arrays[entry.name]):
                self._write(as_bytes(block))
        self._file.write(self._checksum.to_bytes(4, "little"))
        self._file.flush()

    def _write(self, data: bytes | memoryview) -> None:
        self._checksum = zlib.crc32(data, self._checksum)
        self._file.write(data)


class StreamReader:
    """Read a set from a stream: once, in order, in constant memory."""

    def __init__(self, file: IO[bytes], name: str, beginning: bytes = b"") -> None:
        self._file = file
        self._name = name
        self._checksum = 0
        self._checked: bool | None = None  # whether the stream has checksums, once its first blob is read
        _widen_pipe(file)
        beginning = beginning or file.read(1)
        if not beginning:
            raise DataError(f"{name}: is empty; the command before it in the pipe may have failed")
        facts, _ = self._read_blob(beginning)
        if facts.get("part") != "header":
            kind = str(facts.get("schema")).partition("/")[0]
            what = {"medgen.model": "is a model", "medgen.resume": "is the saved state of a training"}.get(kind)
            raise DataError(f"{name}: {what or 'does not begin with the header of a set'}, and a set is expected")
        self.header = parse_header(facts.get("header"), name)
        self._tail: Tail | None = None

    @property
    def provenance(self) -> Provenance:
        """The graph that ends in this set."""
        return self.header.provenance

    @property
    def tail(self) -> Tail:
        """Counts and digests; known once all cases have been read."""
        if self._tail is None:
            raise DataError(f"{self._name}: its counts and digest were asked for before its end was read")
        return self._tail

    def digests(self) -> dict[str, str]:
        """Content digests of this set and its inputs; known once all cases have been read."""
        return {**self.tail.inputs, self.provenance.id: self.tail.digest}

    def __iter__(self) -> Iterator[Case]:
        return self._cases(self._array)

    def on_disk(self) -> Iterator[Case]:
        """All cases, with their arrays in temporary files, so that not even one case has to fit in memory."""
        return self._cases(self._spooled)

    def _cases(self, read: _ReadStack) -> Iterator[Case]:
        digest = ContentDigest(self.header) if not self._checked else None
        cases = slices = 0
        while True:
            facts, arrays = self._read_blob(read=read)
            if facts.get("part") == "end":
                with self._readable():
                    tail = msgspec.convert(facts["end"], Tail)
                if (tail.cases, tail.slices) != (cases, slices):
                    raise DataError(
                        f"{self._name}: holds {cases} cases, {slices} slices; its end says {tail.cases}, {tail.slices}"
                    )
                if digest is not None and digest.tail(tail.inputs).digest != tail.digest:
                    raise DataError(f"{self._name}: damaged: its content does not match its digest")
                if self._file.read(1):
                    raise DataError(f"{self._name}: more data after the end marker; join sets with 'medgen merge'")
                self._tail = tail
                return
            if facts.get("part") != "case":
                raise DataError(f"{self._name}: unknown part after {cases} cases")
            with self._readable():
                case = Case.of_facts(facts["case"], arrays)
                if made := synthetic_in_old_set(self.header, case.id):
                    case = replace(case, synthetic=made)
            case.check()
            cases += 1
            slices += len(case)
            if digest is not None:
                digest.add(case)
            yield case

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn errors caused by malformed facts into a DataError."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
            raise DataError(f"{self._name}: damaged: the facts of a blob cannot be read ({error})") from None

    def _read_blob(
        self, beginning: bytes = b"", read: _ReadStack | None = None
    ) -> tuple[dict[str, Any], dict[str, Stack]]:
        self._checksum = zlib.crc32(beginning, self._checksum)
        beginning += self._exactly(8 - len(beginning))
        if beginning == HDF5_MAGIC:
            raise DataError(f"{self._name}: an HDF5 set, which no pipe can carry; give the name of its file instead")
        length = int.from_bytes(beginning, "little")
        if not 2 <= length <= _LONGEST_HEADER:
            raise DataError(f"{self._name}: not a medgen set (neither HDF5 nor a stream of safetensors blobs)")
        try:
            header = json.loads(self._exactly(length))
            facts = json.loads(header.pop("__metadata__")[KEY])
            checked = header.pop(_CHECKSUM.name, None) is not None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DataError(f"{self._name}: a blob in the stream has no readable header") from None
        if not isinstance(facts, dict):
            raise DataError(f"{self._name}: a blob in the stream holds no facts")
        with self._readable():
            arrays = self._read_arrays(header, read or self._array)
        if self._checked is None:
            self._checked = checked
        if checked != self._checked or (checked and not self._matches()):
            raise DataError(f"{self._name}: damaged: a blob in the stream does not match its checksum")
        return facts, arrays

    def _matches(self) -> bool:
        """Read a checksum and compare it; its own bytes are not part of the next checksum."""
        expected = self._checksum
        stated = self._exactly(_CHECKSUM.size)
        self._checksum = expected
        return int.from_bytes(stated, "little") == expected

    def _read_arrays(self, header: dict[str, Any], read: _ReadStack) -> dict[str, Stack]:
        arrays: dict[str, Stack] = {}
        expected = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
            dtype = _DTYPES.get(entry["dtype"])
            begin, end = entry["data_offsets"]
            if dtype is None or begin != expected:
                raise DataError(f"{self._name}: array '{name}' of a blob has an unknown type or position")
            if math.prod(entry["shape"]) * np.dtype(dtype).itemsize != end - begin:
                raise DataError(f"{self._name}: array '{name}' of a blob does not have the size it states")
            arrays[name] = read(tuple(entry["shape"]), np.dtype(dtype))
            expected = end
        return arrays

    def _array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        array = np.empty(shape, dtype)
        self._fill(as_bytes(array))
        return array

    def _spooled(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Spool:
        spool, length = Spool(shape[1:], dtype), block_length(shape, dtype)
        for first in range(0, shape[0], length):
            spool.append(self._array((min(length, shape[0] - first), *shape[1:]), dtype))
        return spool

    def _exactly(self, count: int) -> bytes:
        data = bytearray(count)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, view: memoryview) -> None:
        while view:
            got = self._file.readinto(view)  # type: ignore[attr-defined]
            if not got:
                raise DataError(f"{self._name}: truncated: the stream stops before its end marker")
            self._checksum = zlib.crc32(view[:got], self._checksum)
            view = view[got:]


def parse_header(facts: Any, name: str) -> SetHeader:
    """A SetHeader from JSON values; DataError if this version cannot read it."""
    schema = facts.get("schema") if isinstance(facts, dict) else None
    if schema not in READABLE_SCHEMAS:
        raise DataError(f"{name}: holds schema {schema!r}, this version reads {' and '.join(READABLE_SCHEMAS)}")
    try:
        return msgspec.convert(facts, SetHeader)
    except msgspec.ValidationError as error:
        raise DataError(f"{name}: its header is not valid: {error}") from None


def _widen_pipe(file: IO[bytes]) -> None:
    """A 1 MiB pipe moves large arrays 3 x faster than the default 64 KiB. Does nothing if not a pipe or not Linux."""
    with contextlib.suppress(OSError, ValueError):
        fcntl.fcntl(file.fileno(), _F_SETPIPE_SZ, _PIPE_BYTES)
