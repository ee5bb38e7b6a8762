"""CSV files with a header line: columns matched without case, rows by their line number, faulty rows told apart.

Text that a spreadsheet would take for a formula is written with a leading apostrophe, which is removed on reading.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medgen.errors import DataError, InputMissingError

# What begins so is a formula to spreadsheets (https://owasp.org/www-community/attacks/CSV_Injection), as they are or
# as letters of full width; numbers are none.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SEPARATORS = {";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class Rows:
    """The contents of a CSV file."""

    columns: dict[str, str]  # in lower case, and by their one name where they have several -> as the file spells them
    rows: list[tuple[int, dict[str, str]]]  # each with its line in the file
    faults: list[tuple[int, str]]  # rows that cannot be read: their lines, and why


class RowWriter:
    """Writes rows to a text file that was opened with newline=""; `read_rows` gives every text back as it was."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, cells: Iterable[object]) -> None:
        """Append one row."""
        # Not by csv.writer, which puts no quotes around a carriage return.
        self._file.write(",".join(_quoted(f"'{text}" if _shielded(text) else text) for text in map(str, cells)) + "\n")


def read_rows(file: Path, synonyms: Mapping[str, str] | None = None) -> Rows:
    """Read a CSV file in UTF-8; DataError if it is not one, has no rows, or names a column twice.

    `synonyms`: alternative names of columns -> the name used here.
    """
    faults: list[tuple[int, str]] = []
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [bare(name) for name in next(reader, [])]
            columns = _columns(file, header, synonyms or {})
            for cells in reader:
                if len(cells) != len(columns):
                    if not any(cells):
                        continue
                    told = (
                        f"{len(cells)} cells, the header has {len(columns)}; put quotes around text that holds commas"
                    )
                    faults.append((reader.line_num, f"{file}, row {reader.line_num}: {told}"))
                    continue
                rows.append((reader.line_num, dict(zip(columns, map(bare, cells), strict=True))))
    except FileNotFoundError:
        raise InputMissingError(f"{file}: no such file") from None
    except OSError as error:
        raise InputMissingError(f"{file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not a CSV file in UTF-8 ({error})") from None
    if not rows and not faults:
        raise DataError(f"{file}: holds no rows below its header")
    return Rows(columns, rows, faults)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"\r\n') else text


def _shielded(text: str) -> bool:
    """Whether an apostrophe is put before a text: a formula, one with spaces around it, or one of these in apostrophes,
    which could not be told from a shielded one."""
    core = text.lstrip("'")
    return core != core.strip() or (bool(_FORMULA.match(core)) and not _NUMBER.fullmatch(core))


def bare(cell: str) -> str:
    """The text of a cell, without an apostrophe that shields it, or spaces around it."""
    return cell[1:] if cell.startswith("'") and _shielded(cell) else cell.strip()


def _columns(file: Path, header: list[str], synonyms: Mapping[str, str]) -> dict[str, str]:
    if len(header) == 1:
        for separator, name in _SEPARATORS.items():
            if separator in header[0]:
                raise DataError(f"{file}: its columns are separated by {name}; save it with commas")
    columns: dict[str, str] = {}
    for number, spelled in enumerate(header, 1):
        name = spelled.lower() or f"#{number}"
        name = synonyms.get(name, name)
        if name in columns:
            raise DataError(f"{file}: columns '{columns[name]}' and '{spelled}' mean the same; keep one of them")
        columns[name] = spelled
    return columns
