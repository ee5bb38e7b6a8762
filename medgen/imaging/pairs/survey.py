"""A look at every row and the header of its image: what cannot be used, and what the rest has in common."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from medgen.artifacts.provenance import fingerprint
from medgen.errors import DataError
from medgen.imaging.cases.intensity import is_relative, plan_encoding
from medgen.imaging.cases.left_out import LeftOut
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.planning import Plan
from medgen.imaging.cases.preprocessing import annotation_facts
from medgen.imaging.cases.workers import WorkerDied, Workers
from medgen.imaging.labels import table as csv_labels
from medgen.imaging.labels.table import LabelTable, classes_of
from medgen.imaging.pairs.table import Pair, PairTable, annotated
from medgen.imaging.pairs.work import ROWS, Faulty, Look, PairsTask, Settled, look
from medgen.imaging.reading.slices import Kind
from medgen.reporting import Reporter

Result = TypeVar("Result")
Scale = tuple[Kind, str]
"""Kind of the values, and modality as far as the files tell."""


@dataclass
class Survey:
    """What is known of a table after a look at each row; its size grows with the faults, not with the rows."""

    pairs: PairTable
    faults: set[int] = field(default_factory=set)
    """Numbers of the rows that cannot be used."""
    count: int = 0
    labels: set[str] = field(default_factory=set)
    labelled: bool = False
    scales: Counter[Scale] = field(default_factory=Counter)
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    colour: int = 0
    facts: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    @property
    def classes(self) -> dict[str, int]:
        """The number of each label by its name."""
        return classes_of(self.labels, self.pairs.file)

    @property
    def sources(self) -> str:
        """What identifies the rows and images, without their names."""
        return fingerprint((*self.classes, self.facts.hexdigest()))

    def take(self, pair: Pair, seen: Look) -> None:
        """Take in a row and its image. DataError for a cell of no meaning."""
        label = pair.cells.get("label", "")
        self.labelled |= "label" in pair.cells
        csv_labels.check_filled(pair.cells)
        if self.pairs.template is not None:
            csv_labels.check_filled(pair.cells, self.pairs.template.fields)
        if self.labelled and not label:
            raise DataError("has no label, and there is a column of labels")
        cells = {name: cell for name, cell in pair.cells.items() if name != "label"}
        plain = Pair(pair.number, pair.name, pair.path, cells)
        annotation = annotated(LabelTable(self.pairs.file, (), []), self.pairs, plain, seen.depth)
        told = "\0".join((seen.digest, label, *annotation_facts(annotation)))
        self.facts.update(f"{told}\n".encode("utf-8", "surrogatepass"))
        self.count += 1
        self.colour += seen.colour
        self.scales[seen.kind, seen.modality] += 1
        self.shapes[seen.shape] += 1
        self.labels |= {label} - {""}

    def settle(self, options: PreprocessOptions, reporter: Reporter) -> tuple[Plan, Settled]:
        """How all images are stored. DataError for images of several scales or sizes, unless the rest is to go on."""
        kinds = self._kinds(options)
        kind = next(iter(kinds))[0] if len({kind for kind, _ in kinds}) == 1 else "other"
        shape, most = self.shapes.most_common(1)[0]
        if most < self.count and not options.keep_going:
            told = ", ".join(f"{columns} x {rows} ({count})" for (rows, columns), count in self.shapes.most_common(3))
            raise DataError(f"{self.pairs.file}: its images differ in size: {told}; bring all to one with --size")
        channels = int(options.channels) if options.channels != "auto" else 3 if self.colour else 1
        if 0 < self.colour < self.count or (self.colour and channels == 1):
            grey = self.count - self.colour
            done = "colour is made grey" if channels == 1 else "grey ones have three equal channels; --channels 1: grey"
            reporter.say(f"{self.colour} images are in colour and {grey} grey: {done}")
        encoding = plan_encoding(kind, options.window)
        plan = Plan((), encoding, channels, (), self.classes, self.labelled)
        return plan, Settled(encoding, channels, frozenset(kinds), shape)

    def _kinds(self, options: PreprocessOptions) -> set[Scale]:
        """The scales that one set can hold together: those like the most frequent one."""
        if is_relative(options.window):
            return set(self.scales)
        deep = {modality for kind, modality in self.scales if kind == "other"} - {""}

        def scale(kind: Kind, modality: str) -> Kind:
            return "other" if kind == "byte" and modality in deep else kind

        counts: Counter[Kind] = Counter()
        for (kind, modality), count in self.scales.items():
            counts[scale(kind, modality)] += count
        usual, most = counts.most_common(1)[0]
        if most < self.count and not options.keep_going:
            raise DataError(
                f"{self.pairs.file}: {self.count - most} of its {self.count} images are not on the same scale as the "
                "rest (8 bits, more, or HU); scale each by itself with --window 0.5%,99.5%"
            )
        return {(kind, modality) for kind, modality in self.scales if scale(kind, modality) == usual}


def survey(
    pairs: PairTable, options: PreprocessOptions, workers: Workers, left_out: LeftOut, reporter: Reporter
) -> Survey:
    """Look at all rows; those that cannot be used are left out. DataError if none can."""
    found = Survey(pairs)
    with reporter.progress(None, "rows seen") as advance:
        for row, outcome in worked(workers, look, PairsTask((), options), pairs.rows()):
            number, reason = (row.number, "") if isinstance(row, Pair) else row
            try:
                if isinstance(row, Pair) and not isinstance(outcome, str):
                    found.take(row, outcome)
                else:
                    reason = told(pairs, row, str(outcome))
            except DataError as error:
                reason = told(pairs, row, str(error))
            if reason:
                found.faults.add(number)
                left_out.add(reason, {"row": number})
            advance()
    if not found.count:
        first = f"; the first: {left_out.reasons[0]}" if left_out.reasons else ""
        raise DataError(f"{pairs.file}: holds no row that can be used{first}")
    return found


def told(pairs: PairTable, row: Pair | Faulty, reason: str) -> str:
    """Why a row cannot be used, with the name of the table and the row's number."""
    return f"{pairs.file}, row {row.number}: {reason}" if isinstance(row, Pair) else row[1]


def worked(
    workers: Workers,
    work: Callable[[PairsTask], list[Result | str]],
    task: PairsTask,
    rows: Iterable[Pair | Faulty],
) -> Iterator[tuple[Pair | Faulty, Result | str]]:
    """Each row with what `work` says of it, in order; a row at which a worker dies has failed, and no other."""
    for done, outcomes in workers.map(work, task.of(rows, ROWS)):
        if isinstance(outcomes, WorkerDied):
            with Workers(1) as worker:
                alone = [outcome for _, outcome in worker.map(work, done.parts())]
            outcomes = [outcome[0] if isinstance(outcome, list) else str(outcome) for outcome in alone]
        elif not isinstance(outcomes, list):
            raise outcomes
        yield from zip(done.rows, outcomes, strict=True)
