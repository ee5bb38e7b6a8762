"""Ratings of images: an append-only CSV file with one row per rating.

| column | meaning |
|--------|---------|
| set    | the set that the case is from: the beginning of its content digest |
| rater  | who rated |
| case   | id of the case |
| other  | in a comparison, the case that it is compared with, whose id is the larger one; else empty |
| aspect | what was rated; `real` = whether it was taken for a real image |
| value  | 1 (worst) to 5; in a comparison 1 (case is better), 0 (other is better) or 0.5 (tie); of `real` 1 or 0 |
| when   | the time in UTC, such as 2026-01-31T13:45:00Z; may be missing |

Of several rows with the same first five columns the last counts; one without a value withdraws the rating. The columns
may have any order, and others may stand among them.
"""  # fmt: skip

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from medgen.errors import DataError, InputMissingError, OutputError, StorageError
from medgen.imaging.labels.csv_file import SEPARATORS
from medgen.imaging.labels.rows import RowWriter
from medgen.imaging.labels.shielding import bare

COLUMNS = ("set", "rater", "case", "other", "aspect", "value", "when")
NEEDED = COLUMNS[:-1]
SET_DIGITS = 16
"""Of a content digest: enough to tell sets apart."""
REAL = "real"
"""The aspect that asks whether an image is real."""
_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

Key = tuple[str, str, str, str, str]
"""All columns but value and time."""


def set_name(digest: str) -> str:
    """What a set with this content digest is called in ratings."""
    return digest[:SET_DIGITS]


@dataclass(frozen=True)
class Rating:
    """One row."""

    set: str
    rater: str
    case: str
    other: str
    aspect: str
    value: float | None
    when: str = ""

    @property
    def key(self) -> Key:
        """What is rated, and by whom."""
        return (self.set, self.rater, self.case, self.other, self.aspect)

    def ordered(self) -> Rating:
        """A comparison with the smaller id first; other ratings unchanged."""
        if not self.other or self.case < self.other:
            return self
        turned = None if self.value is None else 1.0 - self.value
        return replace(self, case=self.other, other=self.case, value=turned)

    def fault(self) -> str:
        """What is wrong with the rating; "" if nothing. A line break would hide where a crash has cut a line."""
        if any(mark in cell for cell in self.key for mark in "\r\n"):
            return "a name or id holds a line break"
        if missing := [name for name in ("set", "rater", "case", "aspect") if not getattr(self, name)]:
            return f"its {missing[0]} is empty"
        if self.case == self.other:
            return "it compares a case with itself"
        if self.value is None:
            return ""
        allowed = (0.0, 0.5, 1.0) if self.other else (0.0, 1.0) if self.aspect == REAL else (1.0, 2.0, 3.0, 4.0, 5.0)
        if self.value in allowed:
            return ""
        return f"value {self.value:g} is not one of {', '.join(f'{one:g}' for one in allowed)}"


@dataclass(frozen=True)
class Ratings:
    """The net content of a file."""

    values: dict[Key, float]
    """The ratings that count, in the order of their last change."""
    replaced: int
    """Ratings replaced by a later one of the same rater."""
    half_line: bool
    """Whether the last line is cut short, as after a crash; it is not read."""
    columns: tuple[str, ...] = COLUMNS
    """As the file has them."""

    def digest(self) -> str:
        """Of the ratings that count, in any order and whatever the file is called."""
        rows = sorted((*key, f"{value:g}") for key, value in self.values.items())
        return hashlib.sha256("\n".join("\r".join(row) for row in rows).encode()).hexdigest()[:16]


def read_ratings(path: Path) -> Ratings:
    """The ratings of a file; DataError names the first invalid row."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputMissingError(f"{path}: no such file") from None
    except OSError as error:
        raise InputMissingError(f"{path}: {error.strerror}") from None
    return parse_ratings(data, str(path))


def parse_ratings(data: bytes, name: str) -> Ratings:
    """The ratings in the content of a file called `name`."""
    end = data.rfind(b"\n") + 1
    if not end:
        if not ",".join(COLUMNS).encode().startswith(data):
            raise _foreign(name)
        return Ratings({}, 0, half_line=bool(data))
    values: dict[Key, float] = {}
    replaced = 0
    try:
        rows = csv.reader(io.StringIO(data[:end].decode("utf-8-sig"), newline=""), strict=True)
        columns = _columns(next(rows, []), name)
        ratings = [_rating(row, columns, f"{name}, line {rows.line_num}") for row in rows if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name}: not a CSV file in UTF-8 ({error})") from None
    last = _unended(data[end:], columns)
    for rating in [*ratings, *([last] if last is not None else [])]:
        before = values.pop(rating.key, None)
        if rating.value is not None:
            values[rating.key] = rating.value
            replaced += before is not None
    return Ratings(values, replaced, last is None and end < len(data), columns)


def _columns(header: Sequence[str], name: str) -> tuple[str, ...]:
    columns = tuple(bare(cell).lower() for cell in header)
    if len(columns) == 1 and (mark := next((one for one in SEPARATORS if one in columns[0]), "")):
        raise DataError(f"{name}: its columns are separated by {SEPARATORS[mark]}; save it with commas")
    if any(columns.count(one) != 1 for one in NEEDED) or columns.count("when") > 1:
        raise _foreign(name)
    return columns


def _foreign(name: str) -> DataError:
    return DataError(f"{name}: expected the columns {','.join(NEEDED)}, as medgen rate writes them")


def _rating(row: Sequence[str], columns: Sequence[str], where: str) -> Rating:
    if len(row) != len(columns):
        raise DataError(f"{where}: {len(row)} fields, expected {len(columns)}; correct or delete the line")
    cells = dict(zip(columns, map(bare, row), strict=True))
    text = cells["value"]
    try:
        value = float(text) if text else None
    except ValueError:
        raise DataError(f"{where}: value '{text}' is not a number; correct or delete the line") from None
    of_set, rater, case, other, aspect = (cells[name] for name in NEEDED[:-1])
    rating = Rating(of_set, rater, case, other, aspect, value, cells.get("when", ""))
    if rating.fault():
        raise DataError(f"{where}: {rating.fault()}; correct or delete the line")
    return rating.ordered()


def _unended(line: bytes, columns: Sequence[str]) -> Rating | None:
    """The rating in a last line without a line break, as other programs write it; None for half a line."""
    try:
        row = next(csv.reader([line.decode()], strict=True), [])
        rating = _rating(row, columns, "")
    except (UnicodeDecodeError, csv.Error, DataError):
        return None
    text = bare(row[-1])
    if columns[-1] == "when":
        whole = not text or _WHEN.fullmatch(text) is not None
    elif columns[-1] == "value":
        whole = rating.value is not None and not (rating.other and float(text) == 0)  # may have been going to be 0.5
    else:
        whole = True
    return rating if whole else None


class RatingsFile:
    """A ratings file open for appending. When `add` returns, its rating is safely on disk.

    Several processes may add to one file at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            os.close(self._file)
            raise OutputError(f"{path}: is not a file that ratings can be kept in; give another one")
        self.repaired = False
        """Whether half a line, which a crash had left, was removed."""
        self._size = 0
        """Of the file when we wrote to it last."""
        with self._locked():
            data = self._content()
            self.ratings = parse_ratings(data, str(path))
            if self.ratings.half_line:
                os.ftruncate(self._file, data.rfind(b"\n") + 1)
                self.repaired = True
            if not os.fstat(self._file).st_size:
                self._append(COLUMNS)
            elif not self.repaired and not data.endswith(b"\n"):
                self._write(b"\n")
            self._size = os.fstat(self._file).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def add(self, rating: Rating) -> None:
        """Write one rating through to disk; StorageError, with nothing of it left, if that fails."""
        rating = rating.ordered()
        text = "" if rating.value is None else f"{rating.value:g}"
        cells = dict(zip(COLUMNS, (*rating.key, text, rating.when), strict=True))
        with self._locked():
            self._check_kept()
            self._append([cells.get(name, "") for name in self.ratings.columns])

    def _check_kept(self) -> None:
        """StorageError if the file that we hold has lost its name, to another one or to none, or what was in it."""
        ours = os.fstat(self._file)
        with contextlib.suppress(OSError):
            if os.path.samestat(ours, self._path.stat()) and ours.st_size >= self._size:
                return
        told = "the file was deleted, replaced or cut off while it was in use; end medgen rate, and start it again"
        raise StorageError(f"{self._path}: the rating was not written: {told}")

    def _append(self, row: Sequence[str]) -> None:
        line = io.StringIO(newline="")
        RowWriter(line).write(row)
        self._write(line.getvalue().encode())

    def _write(self, data: bytes) -> None:
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError("the disk is full")
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise StorageError(f"{self._path}: the rating was not written: {error.strerror or error}") from None
        self._size = before + written

    def _content(self) -> bytes:
        with open(self._file, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
