"""CSV files with a header line: columns matched without case, rows by their line number, faulty rows told apart."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medgen.errors import DataError, InputMissingError

_SEPARATORS = {";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class Rows:
    """What a CSV file holds."""

    columns: dict[str, str]  # in lower case, and by their one name where they have several -> as the file spells them
    rows: list[tuple[int, dict[str, str]]]  # each with its line in the file
    faults: list[str]  # rows that cannot be read, each with its reason


def read_rows(file: Path, synonyms: Mapping[str, str] | None = None) -> Rows:
    """Read a CSV file in UTF-8; DataError where it is none, has no rows, or names a column twice.

    `synonyms`: other names of columns, each with the one that it stands for.
    """
    faults: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            columns = _columns(file, header, synonyms or {})
            for cells in reader:
                if len(cells) != len(columns):
                    if not any(cells):
                        continue
                    faults.append(
                        f"{file}, row {reader.line_num}: {len(cells)} cells, the header has {len(columns)}; "
                        "put quotes around text that holds commas"
                    )
                    continue
                rows.append((reader.line_num, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
    except OSError as error:
        raise InputMissingError(f"{file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not a CSV file in UTF-8 ({error})") from None
    if not rows and not faults:
        raise DataError(f"{file}: holds no rows below its header")
    return Rows(columns, rows, faults)


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
