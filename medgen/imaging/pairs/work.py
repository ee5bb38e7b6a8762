"""What a worker process does with rows: look at the header of each image, or read it. Imports no torch."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from medgen.errors import DataError, MedgenError
from medgen.imaging.cases.intensity import Encoding
from medgen.imaging.cases.mending import plane_of
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.work import Piece, ReadTask, Slab, read
from medgen.imaging.geometry import PlaneMap, parse_size
from medgen.imaging.pairs.table import Pair
from medgen.imaging.reading import formats
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.series import SliceStack, build_stacks
from medgen.imaging.reading.slices import Kind

ROWS = 32
"""Rows in one task."""

Result = TypeVar("Result")
Faulty = tuple[int, str]
"""The number of a row, and why it cannot be used."""


@dataclass(frozen=True)
class Look:
    """What the header of an image says that matters for the whole set."""

    kind: Kind
    modality: str
    colour: bool
    shape: tuple[int, int]  # (H, W) after the geometry
    depth: int  # slices
    digest: str  # of its size and some of its content


@dataclass(frozen=True)
class Settled:
    """What was settled for all images after a look at each."""

    encoding: Encoding
    channels: int
    kinds: frozenset[tuple[Kind, str]]  # kinds and modalities that share the scale
    shape: tuple[int, int]


@dataclass(frozen=True)
class PairsTask:
    """Some rows, faulty ones in between; with `settled`, their images are read."""

    rows: tuple[Pair | Faulty, ...]
    options: PreprocessOptions
    settled: Settled | None = None

    def of(self, rows: Iterable[Pair | Faulty], count: int) -> Iterator[PairsTask]:
        """Tasks for `count` of the rows each."""
        rows = iter(rows)
        while chunk := tuple(islice(rows, count)):
            yield replace(self, rows=chunk)

    def parts(self) -> Iterator[PairsTask]:
        """A task for each row."""
        return (replace(self, rows=(row,)) for row in self.rows)

    def __str__(self) -> str:
        return next((row.path for row in self.rows if isinstance(row, Pair)), "rows that name no image")


@dataclass(frozen=True)
class Shown:
    """An image that was read."""

    stack: SliceStack
    plane: PlaneMap
    slab: Slab


def look(task: PairsTask) -> list[Look | str]:
    """What the header of each row's image says, or why the row cannot be used."""
    return [_tried(_look, row, task) for row in task.rows]


def show(task: PairsTask) -> list[Shown | str]:
    """The image of each row, or why it cannot be used."""
    return [_tried(_show, row, task) for row in task.rows]


def _tried(work: Callable[[Pair, PairsTask], Result], row: Pair | Faulty, task: PairsTask) -> Result | str:
    if not isinstance(row, Pair):
        return row[1]
    try:
        return work(row, task)
    except MedgenError as error:
        return str(error)
    except MemoryError as error:
        return f"{row.path}: too large for the memory that is free ({error}); use fewer --workers"


def _look(pair: Pair, task: PairsTask) -> Look:
    stack, plane = _opened(pair, task.options)
    first = stack.first
    digest = f"{first.entry.size} {first.sample}"
    return Look(first.kind, first.modality, first.colour, plane.shape, len(stack.slices), digest)


def _show(pair: Pair, task: PairsTask) -> Shown:
    stack, plane = _opened(pair, task.options)
    settled, first = task.settled, stack.first
    if settled is None:
        raise ValueError("nothing was settled to read images by")
    if (first.kind, first.modality) not in settled.kinds:
        raise DataError(f"{pair.path}: not on the same scale as the rest; scale each image: --window 0.5%,99.5%")
    if plane.shape != settled.shape:
        (rows, columns), (most_rows, most_columns) = plane.shape, settled.shape
        raise DataError(
            f"{pair.path}: has {columns} x {rows} pixels, most others {most_columns} x {most_rows}; bring all to one "
            "size with --size"
        )
    piece = Piece(first.entry, first.format, tuple(item.frame for item in stack.slices), plain=first.plain)
    slab = read(
        ReadTask(
            case=pair.number,
            last=True,
            pieces=(piece,),
            plane=plane,
            spacing=(stack.spacing[1], stack.spacing[2]),
            encoding=settled.encoding,
            channels=settled.channels,
            hu=first.kind == "hu",
            mask_classes=None,
            mask_background=False,
            keep_physical=settled.encoding.per_case,
            nameless=not (pair.cells.get("patient") or stack.patient),
        )
    )
    return Shown(stack, plane, slab)


def _opened(pair: Pair, options: PreprocessOptions) -> tuple[SliceStack, PlaneMap]:
    """The one stack of slices that a row's file holds, and how it comes to its size."""
    path = Path(pair.path)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"no such file '{pair.name}'") from None
        raise DataError(f"'{pair.name}': {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # a pipe would be waited for
        raise DataError(f"'{pair.name}' is not a file; name one image")
    if stat.S_ISDIR(status.st_mode) or path.suffix.lower() == ".zip":
        what = "an archive" if stat.S_ISREG(status.st_mode) else "a folder"
        raise DataError(f"'{pair.name}' is {what}; give it as SOURCE, and this table as --labels")
    entry = Entry(pair.path, "", status.st_size, 0, path.name)
    stacks, _ = build_stacks(formats.scan(entry, options.modality))
    if len(stacks) != 1:
        raise DataError(f"{pair.path}: holds {len(stacks)} images; a row names one")
    if options.spacing is not None and not stacks[0].measured:
        raise DataError(f"{pair.path}: does not state its pixel spacing; use --size instead of --spacing")
    return stacks[0], plane_of(stacks[0], None, parse_size(options.size), options)
