"""A CSV file read row by row, in constant memory: its encoding and separator are found out or named, never guessed."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TextIO

from medgen.errors import ConfigError, DataError, InputMissingError
from medgen.imaging.labels.shielding import bare

MAX_LINE = 1 << 20
"""Letters; a longer line is no row of a table."""
MAX_CELL = 1 << 17
"""Letters; that is the limit of Python's reader, too."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t])"?', re.IGNORECASE)
_UNDECODED = re.compile("[\udc80-\udcff]")
"""What Python puts in place of bytes that are not UTF-8."""

# What Python's reader says of a row, and what it means.
_MEANING = {
    "unexpected end of data": "a quote opens in it that is never closed",
    "field larger than field limit": f"a text of more than {MAX_CELL} letters, or a quote that is never closed",
    "expected after": 'a single " inside a quoted text; write it twice, or close the quote before it',
}


class CsvFile:
    """An open table with a header line. `columns` maps the names in lower case to how the file spells them."""

    def __init__(self, path: Path, stream: TextIO, encoding: str, synonyms: Mapping[str, str]) -> None:
        self.path = path
        self.encoding = encoding
        self._lines = _Lines(stream, encoding)
        try:
            header = self._lines.of_header()
            told = _SEPARATOR_LINE.fullmatch(header)  # Excel may write one
            header = self._lines.of_header() if told else header
        except _Unreadable as error:
            raise DataError(f"{path}, header: {error}") from None
        if "\0" in header:
            raise DataError(f"{path}: its header holds zero bytes; if it is UTF-16, say --encoding utf-16-le")
        self.separator = told[1] if told else next((mark for mark in SEPARATORS if mark in header), ",")
        cells = next(csv.reader([header], delimiter=self.separator, skipinitialspace=True), [])
        self.columns = _columns(path, [bare(cell) for cell in cells], synonyms)

    def rows(self) -> Iterator[tuple[int, dict[str, str] | str]]:
        """Each row with the line it begins at: its cells by column, or the reason why it cannot be read."""
        reader = csv.reader(self._lines, delimiter=self.separator, strict=True)
        while True:
            first = self._lines.number + 1
            self._lines.kept.clear()
            try:
                cells = next(reader)
                if any(cell.startswith(" ") and cell.lstrip(" ").startswith('"') for cell in cells):
                    # A quote after a space quotes, too; spaces before other cells may tell that nothing shields these.
                    cells = next(
                        csv.reader(self._lines.kept, delimiter=self.separator, strict=True, skipinitialspace=True)
                    )
            except StopIteration:
                return
            except (csv.Error, _Unreadable) as error:
                told = next((meaning for said, meaning in _MEANING.items() if said in str(error)), str(error))
                last = self._lines.number
                where = f"row {first}" if last <= first else f"rows {first} to {last}"
                yield first, f"{self.path}, {where}: {told}"
                continue
            if len(cells) == len(self.columns):
                yield first, dict(zip(self.columns, map(bare, cells), strict=True))
            elif any(cells):
                yield first, f"{self.path}, row {first}: {self._miscounted(len(cells))}"

    def _miscounted(self, count: int) -> str:
        told = f"{count} cells, the header has {len(self.columns)}"
        if count < len(self.columns):
            return f"{told}; put quotes around text that holds line breaks"
        return f"{told}; put quotes around text that holds {SEPARATORS[self.separator]}"


@contextlib.contextmanager
def open_csv(path: Path, synonyms: Mapping[str, str] | None = None, encoding: str = "") -> Iterator[CsvFile]:
    """Open a table in UTF-8, in UTF-16 with its mark, or in `encoding`.

    `synonyms`: other names of columns -> the name used here. InputMissingError, DataError for what is no table or names
    a column twice, and at the end of the block for a file that is UTF-8 and not in the `encoding` named.
    """
    if encoding:
        _check_name(encoding)
    try:
        with path.open("rb") as file:
            mark = next((name for begin, name in _MARKS if file.peek(4).startswith(begin)), "")
            if mark and encoding and codecs.lookup(encoding).name not in (mark, "utf-8", codecs.lookup(mark).name):
                raise DataError(f"{path}: begins with the mark of {mark}, not of {encoding}; leave out --encoding")
            settled = mark or encoding or "utf-8"
            watch = _Watch(file)
            lenient = settled.startswith("utf-8")
            with io.TextIOWrapper(
                io.BufferedReader(watch, 1 << 16),
                encoding=settled,
                errors="surrogateescape" if lenient else "strict",
                newline="",
            ) as stream:
                yield CsvFile(path, stream, settled, synonyms or {})
            if encoding and not lenient and not mark and watch.is_utf8:
                raise DataError(f"{path}: all of it is UTF-8, which {encoding} would garble; leave out --encoding")
    except FileNotFoundError:
        raise InputMissingError(f"{path}: no such file") from None
    except UnicodeError as error:
        raise DataError(f"{path}: not in {encoding or mark} ({error}); name its --encoding") from None
    except OSError as error:
        raise InputMissingError(f"{path}: {error.strerror}") from None


class _Unreadable(Exception):
    """Why a line cannot be read."""


class _Lines:
    """The lines of a file, one at a time; one that cannot be read raises, and the next call goes on behind it."""

    def __init__(self, stream: TextIO, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self.number = 0  # of the line read last
        self.kept: list[str] = []
        """Lines read since its user cleared this."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(MAX_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
            while (rest := self._stream.readline(MAX_LINE)) and len(rest) == MAX_LINE:
                pass
            raise _Unreadable(f"longer than {MAX_LINE} letters; is this a table?")
        if not line.isascii() and (found := _UNDECODED.search(line)):
            byte = ord(found.group()) - 0xDC00
            raise _Unreadable(
                f"not UTF-8 (byte 0x{byte:02x} after '{line[max(0, found.start() - 12) : found.start()]}'); save the "
                "table as UTF-8, or name its encoding, such as --encoding cp1252"
            )
        self.kept.append(line)
        return line

    def of_header(self) -> str:
        """The first line that is not empty; "" if there is none."""
        return next(filter(None, (line.rstrip("\r\n") for line in self)), "")


class _Watch(io.RawIOBase):
    """Passes bytes on, and finds out whether all of them are UTF-8 with letters beyond ASCII."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._valid, self._foreign = True, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        if self._valid and not (content.isascii() and not self._foreign):
            try:
                self._foreign |= not self._decoder.decode(content).isascii()
            except UnicodeDecodeError:
                self._valid = False
        return len(content)

    @property
    def is_utf8(self) -> bool:
        return self._valid and self._foreign


def _check_name(encoding: str) -> None:
    try:
        "a".encode(encoding)
    except (LookupError, ValueError):
        raise ConfigError(f"--encoding {encoding}: not an encoding of text; such as utf-8, cp1252, latin-1") from None


def _columns(file: Path, header: list[str], synonyms: Mapping[str, str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for number, spelled in enumerate(header, 1):
        name = spelled.lower() or f"#{number}"
        name = synonyms.get(name, name)
        if name in columns:
            raise DataError(f"{file}: columns '{columns[name]}' and '{spelled}' mean the same; keep one of them")
        columns[name] = spelled
    return columns
