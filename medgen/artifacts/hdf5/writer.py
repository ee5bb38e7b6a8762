"""Write a set to HDF5: arrays concatenated over slices, one checksummed chunk per slice; `complete` is set last."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import h5py
import msgspec
import numpy as np

from medgen.artifacts.hdf5.texts import ENDS
from medgen.artifacts.schema import SLICE_FACTS, TEXT_NAMES, Array, Case, SetHeader, Tail
from medgen.artifacts.stacks import Stack, blocks
from medgen.artifacts.stored import CaseRow
from medgen.artifacts.writer import SetWriter

_ROWS_A_FLUSH = 256  # keeps the buffers of case rows and texts small, however many cases there are


class StoredWriter(SetWriter):
    """Write a set into an open, empty HDF5 file."""

    def __init__(self, file: h5py.File, header: SetHeader) -> None:
        super().__init__(header)
        self._file = file
        self._rows: list[CaseRow] = []
        self._flushed = 0
        self._texts: dict[str, tuple[int, list[str]]] = {}  # by column: the first slice, and the texts not yet written
        # Kept open: HDF5 swallows a failed write when a handle is dropped, and raises it when asked to flush.
        self._datasets: dict[str, h5py.Dataset] = {}
        self._append_fact("header", self.header.facts())

    def _put(self, case: Case) -> None:
        start = self.digest.slices
        for name, stack in sorted(case.arrays.items()):
            self._append(name, stack, start)
        for name in SLICE_FACTS:
            values = getattr(case, name)
            if values or name in self._datasets or name in self._texts:
                if name in TEXT_NAMES:
                    self._texts.setdefault(name, (start, []))[1].extend(values or [""] * len(case))
                else:
                    self._append(name, _column(name, values, len(case)), start)
        facts = {field.name: getattr(case, field.name) for field in fields(CaseRow) if hasattr(case, field.name)}
        self._rows.append(CaseRow(**facts, start=start, count=len(case)))  # not the case, which would keep its arrays
        if len(self._rows) >= _ROWS_A_FLUSH:
            self._flush()

    def _flush(self) -> None:
        for name, (start, texts) in self._texts.items():
            self._append_texts(name, texts, start)
        self._texts.clear()
        if self._rows:
            for field in fields(CaseRow):
                if field.name in SLICE_FACTS:
                    continue
                values = [getattr(row, field.name) for row in self._rows]
                if isinstance(values[0], str):
                    self._append_texts(f"case/{field.name}", values, self._flushed)
                else:
                    self._append(f"case/{field.name}", np.array(values), self._flushed)
        self._flushed += len(self._rows)
        self._rows.clear()

    def _append_fact(self, name: str, facts: Mapping[str, Any]) -> None:
        self._append(name, _bytes(msgspec.json.encode(facts, order="sorted")), 0)

    def _append_texts(self, name: str, values: Sequence[str], start: int) -> None:
        encoded = [value.encode() for value in values]
        before = len(self._datasets[name]) if name in self._datasets else 0
        ends = list(itertools.accumulate(map(len, encoded), initial=before))[1:]
        self._append(name, _bytes(b"".join(encoded)), before)
        self._append(name + ENDS, np.array(ends, np.int64), start)

    def _append(self, name: str, stack: Stack, start: int) -> None:
        """Put rows at `start`, which is the end of the column, or beyond it if earlier cases lacked the column."""
        if name not in self._datasets:
            self._datasets[name] = self._file.create_dataset(
                name,
                shape=(0, *stack.shape[1:]),
                maxshape=(None, *stack.shape[1:]),
                chunks=(1 if stack.ndim == 4 else 1024, *stack.shape[1:]),
                dtype=stack.dtype,
                fillvalue=np.nan if name == "origins" else None,
                fletcher32=True,
            )
        dataset = self._datasets[name]
        dataset.resize(start + len(stack), axis=0)
        for block in blocks(stack):
            dataset[start : start + len(block)] = block
            start += len(block)

    def finish(self, tail: Tail) -> None:
        """Flush everything, then set `complete`."""
        self._flush()
        self._append_fact("tail", msgspec.to_builtins(tail))
        self._file.flush()
        self._file.attrs["complete"] = True


def _bytes(content: bytes) -> Array:
    return np.frombuffer(content, np.uint8)


def _column(name: str, values: Sequence[Any], count: int) -> Array:
    """A fact of each slice as it is stored; placeholder values if a case lacks it."""
    if name == "origins":
        return np.array(values) if values else np.full((count, 3), np.nan)
    return np.array(values or [False] * count, np.uint8)
