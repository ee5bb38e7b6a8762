"""A CSV of paths and texts, row by row: each names one image and what it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from os.path import normpath
from pathlib import Path
from unicodedata import normalize

from medgen.config import did_you_mean
from medgen.errors import DataError, UsageError
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.planning import SourceInputs
from medgen.imaging.labels import table as csv_labels
from medgen.imaging.labels.annotations import NODULE_FIELDS, Annotation
from medgen.imaging.labels.csv_file import SEPARATORS, CsvFile, open_csv
from medgen.imaging.remembered import Remembered
from medgen.prompts.templates import Template, load_template
from medgen.reporting import Reporter

_SUFFIXES = (".csv", ".tsv")
_OF_STACKS = {"case", "series", "slice", "mask", *NODULE_FIELDS}
"""Columns that speak of stacks of slices, or need what is planned for a whole set."""
_FOR_STACKS = (
    *("mend", "mask_background", "series", "min_slices", "thickness", "vector_fields", "mask_classes"),
    *("masks_optional", "healthy_slices", "lidc_readers", "train_only"),
)
"""Options that do so."""


_MISREAD = re.compile("[\x80-\x9f]")
"""Control characters that no text has; in cp1252 their bytes are quotes, dashes and letters."""


@dataclass(frozen=True)
class Pair:
    """A row that names an image: its line in the file, the image as named and as found, and its cells by column."""

    number: int
    name: str
    path: str
    cells: Mapping[str, str]


@dataclass(frozen=True)
class PairTable:
    """The table as the command line names it, to be read as often as need be."""

    file: Path
    encoding: str
    template: Template | None

    @property
    def settings(self) -> dict[str, object]:
        """The template, for the provenance; where it was read from is not told."""
        return {} if self.template is None else {"template": self.template.described}

    def rows(self) -> Iterator[Pair | tuple[int, str]]:
        """Each row, or its number and why it cannot be used, as far as that can be told without its image."""
        paths = Remembered()
        with open_csv(self.file, csv_labels.SYNONYMS, self.encoding) as opened:
            column = _path_column(opened)
            for number, cells in opened.rows():
                if isinstance(cells, str):
                    yield number, cells
                    continue
                if not any(cells.values()):  # spreadsheets end with such rows
                    continue
                pair = Pair(number, cells[column], self._path(cells[column]), cells)
                fault = self._fault(pair)
                if not fault:
                    key = blake2b(normpath(pair.path).encode("utf-8", "surrogatepass"), digest_size=16).digest()
                    first = paths.first(key, number)
                    if first != number:
                        fault = f"names the image of row {first} again; put all of its text into one row"
                yield (number, f"{self.file}, row {number}: {fault}") if fault else pair

    def text(self, cells: Mapping[str, str]) -> str:
        """The text of a row."""
        return self.template.filled(cells) if self.template else cells["text"]

    def tell(self, reporter: Reporter) -> None:
        """Report how the table is read, and columns that nothing reads. DataError for one that lacks a column."""
        with open_csv(self.file, csv_labels.SYNONYMS, self.encoding) as opened:
            read = [f"separated by {SEPARATORS[opened.separator]}"] * (opened.separator != ",")
            read += [f"in {opened.encoding}"] * (opened.encoding not in ("utf-8", "utf-8-sig"))
            if read:
                reporter.say(f"{self.file}: read as {' and '.join(read)}")
            used = {_path_column(opened), *self._check_fields(opened, reporter)}
            table = csv_labels.LabelTable(self.file, tuple(opened.columns), [])
            table.unused = csv_labels.unused(opened.columns, used)
        if told := csv_labels.unused_warning(table):
            reporter.warn(told)

    def _check_fields(self, opened: CsvFile, reporter: Reporter) -> tuple[str, ...]:
        """The columns that texts are made of."""
        if self.template is None:
            return ("text",)
        missing = [name for name in self.template.fields if name not in opened.columns]
        told = f"{self.file}: has no column {', '.join(missing)} of the template '{self.template.name}'"
        if len(missing) == len(self.template.fields):
            raise DataError(f"{told}{did_you_mean(missing[0], opened.columns)}; it has {', '.join(opened.columns)}")
        if missing:
            reporter.say(f"{told}: what needs them is left out")
        return self.template.fields

    def _path(self, cell: str) -> str:
        """The file that a cell names, also where another system wrote its separators or accents."""
        spelled = [cell]
        if "\\" in cell:  # Windows
            spelled.append(cell.replace("\\", "/"))
        if not cell.isascii():  # macOS writes accents apart from their letters
            spelled += [normalize(form, spelled[-1]) for form in ("NFC", "NFD")]
        paths = [self.file.parent / one for one in spelled]
        return str(paths[0] if len(paths) == 1 else next((path for path in paths if path.exists()), paths[0]))

    def _fault(self, pair: Pair) -> str:
        if not pair.name:
            return "names no image"
        if any("\0" in value for value in pair.cells.values()):
            return "holds a zero byte, which is no text"
        for cell in pair.cells.values():
            if not cell.isascii() and (odd := _MISREAD.search(cell)):
                return f"holds the control character U+{ord(odd[0]):04X}, as cp1252 does when read as latin-1"
        if not self.text(pair.cells):
            return "its text is empty"
        if swallowed := self._swallowed(pair):
            return f"its text runs on over a row for '{swallowed}'; a quote before it is not closed"
        return ""

    def _swallowed(self, pair: Pair) -> str:
        """An image that a line inside of a text names as the row would that it was meant to be; "" for none."""
        for value in pair.cells.values():
            for line in value.splitlines()[1:] if "\n" in value or "\r" in value else ():
                name = min((line.split(mark, 1)[0].strip(' "') for mark in SEPARATORS), key=len)
                if Path(name).suffix and name != line and Path(self._path(name)).is_file():
                    return name
        return ""


def pair_table(inputs: SourceInputs, options: PreprocessOptions) -> PairTable | None:
    """The CSV of pairs that is the only source; None for other sources, which are read as stacks of slices."""
    sources = [source for source in inputs.sources if source.lower().endswith(_SUFFIXES)]
    if options.template is not None and len(sources) != 1:
        raise UsageError("--template makes texts from the columns of a CSV of paths; give one as the only source")
    if not sources or len(inputs.sources) > 1 or inputs.labels or inputs.lidc_xml or inputs.masks:
        return None
    default = PreprocessOptions()
    if any(getattr(options, name) != getattr(default, name) for name in _FOR_STACKS):
        return None
    file = Path(sources[0])
    with open_csv(file, csv_labels.SYNONYMS, options.encoding or "") as opened:
        columns = set(opened.columns)
    if columns & _OF_STACKS and options.template is None:
        return None
    if options.template is None and ("text" not in columns or not columns & set(csv_labels.PATHS)):
        return None
    return PairTable(file, options.encoding or "", load_template(options.template) if options.template else None)


def annotated(table: csv_labels.LabelTable, pairs: PairTable, pair: Pair, depth: int) -> Annotation:
    """What a row says of its image of `depth` slices. DataError for a cell of no meaning."""
    annotation = Annotation()
    csv_labels.annotate(table, {**pair.cells, "text": pairs.text(pair.cells)}, annotation, range(depth))
    return annotation


def _path_column(opened: CsvFile) -> str:
    column = next((name for name in csv_labels.PATHS if name in opened.columns), "")
    if not column:
        raise DataError(f"{opened.path}: needs a column 'path'; it has {', '.join(opened.columns)}")
    return column
