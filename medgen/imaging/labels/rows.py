"""Whole tables in memory: CSV files with a header line, their rows by line number, faulty rows told apart; and writing.

Text that a spreadsheet would take for a formula is written with a leading apostrophe, which is removed on reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medgen.errors import DataError
from medgen.imaging.labels.csv_file import SEPARATORS, open_csv
from medgen.imaging.labels.shielding import shielded


@dataclass(frozen=True)
class Rows:
    """The contents of a CSV file."""

    columns: dict[str, str]  # in lower case, and by their one name where they have several -> as the file spells them
    rows: list[tuple[int, dict[str, str]]]  # each with the line it begins at
    faults: list[tuple[int, str]]  # rows that cannot be read: their lines, and why


class RowWriter:
    """Writes rows to a text file that was opened with newline=""; `read_rows` gives every text back as it was."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, cells: Iterable[object]) -> None:
        """Append one row."""
        # Not by csv.writer, which puts no quotes around a carriage return.
        self._file.write(",".join(_quoted(f"'{text}" if shielded(text) else text) for text in map(str, cells)) + "\n")


def read_rows(file: Path, synonyms: Mapping[str, str] | None = None, encoding: str = "") -> Rows:
    """Read a CSV file in UTF-8 or the encoding named; DataError if it is not one, has no rows, or names a column twice.

    `synonyms`: alternative names of columns -> the name used here.
    """
    rows: list[tuple[int, dict[str, str]]] = []
    faults: list[tuple[int, str]] = []
    with open_csv(file, synonyms, encoding) as table:
        if table.separator != ",":
            raise DataError(f"{file}: its columns are separated by {SEPARATORS[table.separator]}; save it with commas")
        for number, row in table.rows():
            if isinstance(row, str):
                faults.append((number, row))
            else:
                rows.append((number, row))
    if not rows and not faults:
        raise DataError(f"{file}: holds no rows below its header")
    return Rows(table.columns, rows, faults)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"\r\n') else text
