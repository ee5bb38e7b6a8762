"""The vectors that samples are asked to show, one per sample: from the command line, a CSV file or a set."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medgen.artifacts.stored import StoredSet
from medgen.config import did_you_mean
from medgen.errors import DataError, MedgenError, UsageError
from medgen.imaging.labels.rows import read_rows

Vectors = npt.NDArray[np.float32]
MASK_COLUMN = "mask"
OTHER_COLUMNS = {MASK_COLUMN: "masks", "text": "texts", "modality": "modalities"}
"""Columns besides the fields of vectors, and what they name."""
COLUMN_SYNONYMS = {"prompt": "text", "modal": "modality"}
"""Other names of columns."""


def parse_vector(text: str, fields: Sequence[str], option: str = "--vector") -> Vectors:
    """`has_nodule=1,x=0.4` -> (K,) in the order of `fields`; fields not named are 0. UsageError says what is wrong."""
    values: dict[str, float] = {}
    for item in text.split(","):
        name, separator, number = (part.strip() for part in item.partition("="))
        if not separator:
            raise UsageError(f"{option}: '{item.strip()}' is not name=value; write for instance {fields[0]}=0.5")
        _check_name(name, fields, option, UsageError)
        if name in values:
            raise UsageError(f"{option}: '{name}' is given twice")
        values[name] = _number(number, name, option, UsageError)
    return np.array([values.get(name, 0.0) for name in fields], np.float32)


def read_csv(path: Path, fields: Sequence[str], others: Collection[str] = ()) -> Vectors | None:
    """A CSV file with a header of field names and one row per sample -> (N, K); missing columns are 0.

    None if there are no `fields`. `others` are columns that are read elsewhere. DataError names the row by its line in
    the file.
    """
    read = read_rows(path, COLUMN_SYNONYMS)
    if read.faults:
        raise DataError(read.faults[0][1])
    columns = {field.lower(): index for index, field in enumerate(fields)}
    for name, spelled in read.columns.items():
        if name in OTHER_COLUMNS and name not in columns and name not in others:
            raise DataError(
                f"{path}, header: '{spelled}' names {OTHER_COLUMNS[name]}, but the model was trained without it; "
                "leave it out"
            )
        if name not in columns and name not in others:
            _check_name(spelled, fields, f"{path}, header", DataError)
    vectors = np.zeros((len(read.rows), len(fields)), np.float32)
    for index, (number, row) in enumerate(read.rows):
        for name, cell in row.items():
            if name not in columns:
                continue
            vectors[index, columns[name]] = _number(cell, name, f"{path}, row {number}", DataError)
    return vectors if fields else None


def slices_like(stored: StoredSet, split: str | None = None) -> list[int]:
    """The slices of a set, or of one split of it; DataError if there are none."""
    rows = [row for row in stored.cases if split in (None, row.split)]
    slices = [index for row in rows for index in range(row.start, row.start + row.count)]
    if not slices:
        raise DataError(f"the set given to --like has no slice in split '{split}'")
    return slices


def vectors_like(stored: StoredSet, fields: Sequence[str], slices: Sequence[int]) -> Vectors:
    """The vectors (N, K) of slices of a set, in the order of `fields`."""
    if not stored.has("vector"):
        raise DataError("the set given to --like has no vectors; use one that was preprocessed with labels")
    theirs = stored.header.vector_fields
    missing = [name for name in fields if name not in theirs]
    if missing:
        raise DataError(
            f"the set given to --like lacks the vector fields {', '.join(missing)} that the model was trained on"
        )
    vectors: Vectors = stored.column("vector")[slices][:, [theirs.index(name) for name in fields]].astype(np.float32)
    return vectors


def spread_order(n: int, count: int | None) -> npt.NDArray[np.intp]:
    """Which of `n` rows each of `count` samples gets: evenly spaced, or cycled when count > n; all rows for None."""
    order = np.arange(n if count is None else count)
    return order % n if len(order) > n else order * n // len(order)


def _check_name(name: str, fields: Sequence[str], where: str, kind: type[MedgenError]) -> None:
    if name not in fields:
        hint = did_you_mean(name, fields, f"the model's fields: {', '.join(fields) or 'none'}")
        raise kind(f"{where}: unknown vector field '{name}'{hint}")


def _number(text: str, name: str, where: str, kind: type[MedgenError]) -> float:
    try:
        value = float(text)
    except ValueError:
        raise kind(f"{where}: {name}={text.strip() or '(empty)'} is not a number in [0, 1]") from None
    if math.isnan(value) or not 0.0 <= value <= 1.0:
        raise kind(f"{where}: {name}={text.strip()} lies outside [0, 1]")
    return value
