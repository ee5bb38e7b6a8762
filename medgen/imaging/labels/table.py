"""Labels from a CSV: vector, class, text, patient, split of a slice or case, named by `case`, `path` or `series`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medgen.artifacts.schema import ALTERED, GENERATED, NO_SPLIT, SPLITS
from medgen.config import did_you_mean
from medgen.errors import DataError
from medgen.imaging.labels.annotations import NODULE_FIELDS, Annotation, Finding
from medgen.imaging.labels.names import CaseNames
from medgen.imaging.labels.rows import read_rows
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.series import SliceStack
from medgen.spelling import spelled_twice

PATHS = ("path", "filename", "file")
SYNONYMS = {"modal": "modality"}
_EMPTY = ("nan", "NaN", "<NA>", "#N/A")
"""What pandas and Excel write of cells that hold nothing."""
_KNOWN = ("case", "series", "slice", "label", "text", "modality", "patient", "split", "synthetic", "mask")


@dataclass
class LabelTable:
    """The rows of a labels file, each with its number in the file, and what its columns mean."""

    file: Path
    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, str]]]
    faults: list[tuple[int, str]] = field(default_factory=list)  # rows that cannot be read: their lines, and why
    fields: tuple[str, ...] = ()  # columns that make the vector
    classes: dict[str, int] = field(default_factory=dict)  # class name -> number; numbers name themselves
    unused: tuple[str, ...] = ()  # columns that mean nothing here, as the file spells them

    @property
    def path_column(self) -> str:
        """The column that holds file names, or ""."""
        return next((name for name in PATHS if name in self.columns), "")


def read_table(file: Path, fields: Sequence[str] = (), encoding: str = "") -> LabelTable:
    """Read a CSV with a header line, whose columns are matched without case; rows are counted as lines of the file.

    `fields`: columns of the vector; if empty, the nodule fields if they are there. DataError names the column.
    """
    read = read_rows(file, SYNONYMS, encoding)
    columns = tuple(read.columns)
    table = LabelTable(file, columns, read.rows, read.faults)
    if not {"case", "series"} & set(columns) and not table.path_column:
        raise DataError(f"{file}: needs a column 'case', 'path' or 'series'; it has {', '.join(columns)}")
    table.fields = _vector_fields(table, fields)
    table.unused = unused(read.columns, {table.path_column, *map(str.lower, table.fields)})
    table.classes = classes_of({row["label"] for _, row in table.rows} if "label" in columns else (), file)
    return table


def unused(columns: Mapping[str, str], used: Collection[str]) -> tuple[str, ...]:
    """The columns that nothing reads, as the file spells them; `used` are read besides those always known."""
    return tuple(spelled or "(no name)" for name, spelled in columns.items() if name not in {*_KNOWN, *used})


def classes_of(labels: Iterable[str], file: Path) -> dict[str, int]:
    """The number of each class by its name; none where all labels are numbers.

    DataError for names that differ in their spelling only, such as `Normal` and `normal`, which would be two classes.
    """
    names = sorted({*labels} - {""})
    if all(name.isdecimal() for name in names):
        return {}
    if twice := spelled_twice(names):
        raise DataError(
            f"{file}: the labels '{twice[0]}' and '{twice[1]}' are one, spelled in two ways; choose one spelling"
        )
    return {name: number for number, name in enumerate(names)}


def unused_warning(table: LabelTable) -> str:
    """One sentence about the columns that nothing reads; "" if there are none."""
    if not table.unused:
        return ""
    free = {*_KNOWN, *(() if table.path_column else PATHS)} - set(table.columns)
    hints = {name: did_you_mean(name.lower(), sorted(free)).removeprefix("; ") for name in table.unused}
    remedy = " ".join(f"{name}: {hint}" for name, hint in hints.items() if hint)
    remedy = remedy or "--vector-fields makes columns of numbers from 0 to 1 conditions"
    which = "column {} is unknown" if len(table.unused) == 1 else "columns {} are unknown"
    return f"{table.file}: {which.format(', '.join(table.unused))} and not used; {remedy}"


def apply(
    table: LabelTable, stacks: Sequence[SliceStack], names: CaseNames, annotations: Mapping[int, Annotation]
) -> list[tuple[int, DataError]]:
    """Write every row into the annotation of its stack; returns the rows that cannot be used, and why."""
    errors: list[tuple[int, DataError]] = []
    for number, row in table.rows:
        where = f"{table.file}, row {number}"
        try:
            _apply_row(table, row, where, stacks, names, annotations)
        except DataError as error:
            errors.append((number, error if str(error).startswith(where) else DataError(f"{where}: {error}")))
    return errors


def _apply_row(
    table: LabelTable,
    row: Mapping[str, str],
    where: str,
    stacks: Sequence[SliceStack],
    names: CaseNames,
    annotations: Mapping[int, Annotation],
) -> None:
    place: int | None = None
    case, path = row.get("case", ""), row.get(table.path_column, "")
    series = row.get("series", "")  # beside a case or path: which of those it could mean
    if path:  # tells more than the case: the slice too, whichever others are there
        index, place = names.path(path, table.file.parent, series)
        if case and not names.may_be(index, case):
            raise DataError(f"'{path}' is not of case '{case}'; correct one of them, or leave the case empty")
    elif case:
        index = names.stack(case, series)
    elif series:
        index = names.series(series)
    else:
        raise DataError("names no case, path or series")
    depth = len(stacks[index].slices)
    if row.get("slice") and place is None:
        if not row["slice"].isdecimal() or int(row["slice"]) >= depth:
            raise DataError(f"slice '{row['slice']}': expected 0 to {depth - 1}, counted along the normal")
        place = int(row["slice"])
    places = range(depth) if place is None else (place,)
    annotate(table, row, annotations[index], places)


def annotate(table: LabelTable, row: Mapping[str, str], annotation: Annotation, places: Collection[int]) -> None:
    """Write a row into the annotation of a stack, for its slices at `places`.

    DataError for a cell of no meaning, and for one that contradicts an earlier row.
    """
    finding = _finding(table.fields, row) if table.fields else None
    for name, allowed in (("split", (*SPLITS, NO_SPLIT)), ("synthetic", (GENERATED, ALTERED))):
        if row.get(name) and row[name] not in allowed:
            raise DataError(f"{name} is '{row[name]}'; expected {', '.join(allowed)}, or nothing")
    check_filled(row)
    by_slice: dict[str, dict[int, Any]] = {
        "label": annotation.labels,
        "text": annotation.texts,
        "modality": annotation.modalities,
        "mask": annotation.masks,
    }
    read: dict[str, Callable[[str], Any]] = {"label": partial(_label, table), "mask": partial(_mask, table)}
    told = {name: read.get(name, str)(row[name]) for name in by_slice if row.get(name)}
    of_case = {name: row[name] for name in ("patient", "split", "synthetic") if row.get(name)}
    clashes = [name for name, value in of_case.items() if getattr(annotation, name) not in ("", value)]
    clashes += [name for name in told if any(by_slice[name].get(at, told[name]) != told[name] for at in places)]
    if clashes:
        raise DataError(f"its {clashes[0]} is not that of an earlier row for the same image; keep one of them")
    for position in places:
        if finding is not None:
            annotation.findings[position] = _larger(finding, annotation.findings.get(position), table.fields)
        for name, value in told.items():
            by_slice[name][position] = value
    for name, value in of_case.items():
        setattr(annotation, name, value)


def check_filled(row: Mapping[str, str], fields: Iterable[str] = ("label", "text", "modality", "patient")) -> None:
    """DataError for a cell that holds only what programs write where they have nothing: it would count as a name."""
    for name in fields:
        if row.get(name) in _EMPTY:
            raise DataError(f"its {name} is '{row[name]}', as programs write an empty cell; leave it empty")


def image_paths(table: LabelTable) -> tuple[list[str], list[tuple[int, str]]]:
    """The files that a table used as source names, relative to its folder, each once; and the rows that name none."""
    if not table.path_column:
        raise DataError(f"{table.file}: as a source it needs a column 'path'; or give it as --labels")
    paths: dict[str, None] = {}
    faults: list[tuple[int, str]] = []
    present = []
    for number, row in table.rows:
        path = table.file.parent / row[table.path_column]
        if not path.is_file():
            faults.append((number, f"{table.file}, row {number}: no such file '{row[table.path_column]}'"))
            continue
        present.append((number, row))
        paths[str(path)] = None
    table.rows = present
    return list(paths), faults


def _vector_fields(table: LabelTable, wanted: Sequence[str]) -> tuple[str, ...]:
    if wanted:
        for name in wanted:
            if name.lower() not in table.columns:
                hint = did_you_mean(name, table.columns, f"it has {', '.join(table.columns)}")
                raise DataError(f"{table.file}: has no column '{name}'{hint}")
        return tuple(wanted)
    missing = [name for name in NODULE_FIELDS if name not in table.columns]
    if missing and len(missing) < len(NODULE_FIELDS):
        raise DataError(
            f"{table.file}: has no column {' and none '.join(repr(name) for name in missing)} next to the other nodule "
            "fields; add it, or choose the columns with --vector-fields"
        )
    return () if missing else NODULE_FIELDS


def _finding(fields: Sequence[str], row: Mapping[str, str]) -> Finding:
    values = []
    for name in fields:
        cell = row[name.lower()]
        try:
            value = float(cell)
        except ValueError:
            cause = "is missing" if not cell else f"is '{cell}', not a number"
            raise DataError(f"field '{name}' {cause}; choose the columns with --vector-fields") from None
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            raise DataError(f"field '{name}' is {cell}; it must lie in [0, 1]")
        values.append(value)
    return Finding(tuple(values))


def _larger(new: Finding, old: Finding | None, fields: Sequence[str]) -> Finding:
    """The larger of two findings: the vector of a slice describes its largest finding."""
    if old is None:
        return new
    if "size" not in fields:
        raise DataError("this slice has a row already, and without a field 'size' none of them is the larger one")
    at = list(fields).index("size")
    return max(old, new, key=lambda finding: finding.values[at])


def _mask(table: LabelTable, name: str) -> Entry:
    path = table.file.parent / name
    if not path.is_file():
        raise DataError(f"no such mask '{name}'")
    return Entry(str(path), "", path.stat().st_size, 0, path.name)


def _label(table: LabelTable, text: str) -> int:
    if table.classes:
        return table.classes[text]
    return int(text)
