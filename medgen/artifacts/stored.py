"""Read a set from an HDF5 file, whose arrays are concatenated over slices; `hdf5/writer.py` writes it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import h5py
import msgspec
import numpy as np
import numpy.typing as npt

from medgen.artifacts.hdf5.plain import TABLE, Seen, is_full, read_errors
from medgen.artifacts.hdf5.texts import ENDS, FACTS, column_names, count_texts, read_fact, read_texts
from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import LATER_FACTS, SLICE_FACTS, TEXT_NAMES, Array, Case, ContentDigest, SetHeader, Tail
from medgen.artifacts.stacks import Placed, Point, points
from medgen.artifacts.stream import parse_header
from medgen.artifacts.synthetic import synthetic_in_old_set
from medgen.errors import DataError


@dataclass(frozen=True)
class CaseRow(Placed):
    """One line of a stored set's case table: slices [start, start + count), and the geometry as in `Case`."""

    id: str
    split: str
    start: int
    count: int
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    thickness: float = 0.0
    frame: str = ""
    flaws: str = ""
    synthetic: str = ""
    origins: tuple[Point, ...] = ()
    mended: str = ""
    filled: tuple[bool, ...] = ()

    def __len__(self) -> int:
        """Number of slices."""
        return self.count


def _row(table: Mapping[str, Any], columns: Mapping[str, Array], i: int) -> CaseRow:
    """Row `i` of the case table, with its part of the per-slice `columns`."""
    start, count = int(table["start"][i]), int(table["count"][i])
    origins, filled = (columns.get(name, np.empty(0))[start : start + count] for name in ("origins", "filled"))
    told = {name: table[name][i] for name in LATER_FACTS if name in table}
    later: dict[str, Any] = {name: one if isinstance(one, str) else float(one) for name, one in told.items()}
    return CaseRow(
        id=str(table["id"][i]),
        split=str(table["split"][i]),
        start=start,
        count=count,
        spacing=tuple(table["spacing"][i].tolist()),
        origin=tuple(table["origin"][i].tolist()),
        direction=tuple(table["direction"][i].tolist()),
        origins=points(origins) if np.isfinite(origins).any() else (),
        filled=tuple(map(bool, filled)) if filled.any() else (),
        **later,
    )


class StoredSet:
    """Read a set from HDF5: case by case, or any slices in any order."""

    def __init__(self, file: h5py.File, name: str) -> None:
        self._file = file
        self._name = name
        # Of one that was written here, and has no name any more, nobody else knows.
        self._guard = read_errors(name, Seen.of(file) if file.mode == "r" else None)
        with self._guard:
            header, tail = (read_fact(file, fact) for fact in FACTS)
            if header is None:
                raise DataError(f"{name}: an HDF5 file, but not a medgen set")
            if not file.attrs.get("complete", False):
                raise DataError(f"{name}: incomplete: the command that wrote it did not finish; run it again")
            self.header: SetHeader = parse_header(msgspec.json.decode(header), name)
            self.tail: Tail = msgspec.json.decode(tail or b"", type=Tail)
            self.cases = self._read_rows()
            self.slices = sum(row.count for row in self.cases)
            self._check_counts()
            self._places = np.arange(self.slices)  # where each of our slices is in the file

    @property
    def provenance(self) -> Provenance:
        """The graph that ends in this set."""
        return self.header.provenance

    def digests(self) -> dict[str, str]:
        """Content digests of this set and its inputs."""
        return {**self.tail.inputs, self.provenance.id: self.tail.digest}

    def only(self, split: str) -> StoredSet:
        """The cases of one split, as a set over the same file; DataError if there are none."""
        view = copy.copy(self)
        kept = [row for row in self.cases if row.split == split]
        if not kept:
            raise DataError(f"{self._name}: has no case in split '{split}'")
        starts = np.cumsum([0, *(row.count for row in kept)]).tolist()
        view.cases = [replace(row, start=start) for row, start in zip(kept, starts, strict=False)]
        view.slices = starts[-1]
        view._places = np.concatenate([self._places[row.start : row.start + row.count] for row in kept])
        return view

    def has(self, name: str) -> bool:
        """Whether the set holds an array or text column called `name`."""
        return name in self._file

    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape of a slice and type, for every array by name."""
        with self._guard:
            return {
                name: (dataset.shape[1:], dataset.dtype)
                for name, dataset in self._file.items()
                if isinstance(dataset, h5py.Dataset) and name.removesuffix(ENDS) not in (*SLICE_FACTS, *FACTS)
            }

    def read(self, name: str, indices: Sequence[int] | Array, plane: tuple[slice, ...] = ()) -> Array:
        """Slices of one array, or their part `plane` (of the last axes), in the order asked: (len(indices), ...)."""
        with self._guard:
            dataset = self._dataset(name)
            # A loop of single reads: h5py's fancy indexing of chunked data is 250 x slower.
            rows = [dataset[(int(self._places[index]), ..., *plane)] for index in indices]
        return np.stack(rows) if rows else np.empty((0, *dataset.shape[1:]), dataset.dtype)

    def column(self, name: str) -> Array:
        """A whole small array (vector, label) at once."""
        with self._guard:
            return np.asarray(self._dataset(name)[...])[self._places]

    def texts(self, name: str, indices: Sequence[int] | Array | None = None) -> list[str]:
        """A text column (`text`, `modality`), one entry per slice, or only those of some slices, in the order asked."""
        with self._guard:
            column = self._dataset(name).name
            if indices is None:
                found = read_texts(self._file, column)
                return [found[place] for place in self._places]
            places = self._places[np.asarray(indices, np.int64)]
            runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)  # neighbours are read together
            return [text for run in runs if len(run) for text in read_texts(self._file, column, run[0], run[-1] + 1)]

    def case(self, index: int) -> Case:
        """The case in row `index`, with its arrays in memory."""
        view = self.view(index)
        return replace(view, arrays={name: view[name] for name in view.arrays})

    def view(self, index: int) -> Case:
        """The case in row `index`; its arrays stay in the file and can be read slice by slice while it is open."""
        row = self.cases[index]
        begin = int(self._places[row.start])  # a case is contiguous in the file
        facts: dict[str, Any] = {name: getattr(row, name) for name in LATER_FACTS}
        arrays = {name: _Rows(self._file[name], begin, row.count, self._guard) for name in self.arrays()}
        with self._guard:
            for name in TEXT_NAMES:
                if name in self._file:
                    values = tuple(read_texts(self._file, name, begin, begin + row.count))
                    facts[name] = values if any(values) else ()
        return Case(row.id, arrays, row.split, row.spacing, row.origin, row.direction, **facts)

    def on_disk(self) -> Iterator[Case]:
        """All cases, in order, as `view` returns them."""
        return self._held_to_digest(self.view(index) for index in range(len(self.cases)))

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return self._held_to_digest(self.case(index) for index in range(len(self.cases)))

    def _held_to_digest(self, cases: Iterator[Case]) -> Iterator[Case]:
        """The cases; a set of medgen 0.1, whose texts have no checksums, is afterwards checked against its digest."""
        if FACTS[0] in self._file or self.slices != self.tail.slices:
            yield from cases
            return
        digest = ContentDigest(self.header)
        for case in cases:
            digest.add(case)
            yield case
        if digest.tail(self.tail.inputs).digest != self.tail.digest:
            raise DataError(f"{self._name}: damaged: its content does not match its digest")

    def _check_counts(self) -> None:
        """DataError unless table, tail and arrays agree on the slices, and all of them are there."""
        place = 0
        for row in self.cases:
            if row.start != place or row.count < 0:
                raise DataError(f"{self._name}: damaged: case {row.id} does not begin where the one before it ends")
            place += row.count
        if (self.tail.cases, self.tail.slices) != (len(self.cases), self.slices):
            raise DataError(f"{self._name}: damaged: the counts at its end differ from those of its table")
        counts = {name: len(self._file[name]) if is_full(self._file[name]) else -1 for name in self.arrays()}
        counts |= {name: count_texts(self._file, name) for name in TEXT_NAMES if name in self._file}
        for name, count in counts.items():
            if count != self.slices:
                raise DataError(f"{self._name}: damaged: '{name}' does not hold all slices")

    def _dataset(self, name: str) -> h5py.Dataset:
        if name not in self._file:
            held = ", ".join(sorted(self.arrays()))
            raise DataError(f"{self._name}: has no '{name}' (it has: {held})")
        return self._file[name]

    def _read_rows(self) -> list[CaseRow]:
        if TABLE not in self._file:
            return []
        with self._guard:
            group = self._file[TABLE]
            words = column_names(group)
            table = {
                name: read_texts(group, name) if name in words else dataset[...] for name, dataset in group.items()
            }
            columns = {name: self._file[name][...] for name in ("origins", "filled") if name in self._file}
            if "synthetic" not in table:
                table["synthetic"] = [synthetic_in_old_set(self.header, one) for one in table["id"]]
            return [_row(table, columns, i) for i in range(len(table["id"]))]


@dataclass(frozen=True)
class _Rows:
    """The `Stack` of rows [start, start + count) of a dataset."""

    dataset: h5py.Dataset
    start: int
    count: int
    guard: read_errors

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.dataset.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        kind: np.dtype[Any] = self.dataset.dtype
        return kind

    @property
    def ndim(self) -> int:
        return len(self.dataset.shape)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: slice) -> Array:
        first, last, step = rows.indices(self.count)
        with self.guard:
            read: Array = self.dataset[self.start + first : self.start + max(first, last) : step]
        return read

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return self[:].astype(dtype or self.dtype, copy=False)
