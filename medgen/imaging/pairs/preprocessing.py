"""`medgen preprocess pairs.csv`: after a look at every row, each image is read and written, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator

from medgen.artifacts.sets import create_set
from medgen.artifacts.sharding import mark_shard, take_shard
from medgen.errors import DataError, MedgenError, UsageError
from medgen.imaging.cases.assembly import Assembler
from medgen.imaging.cases.identity import secret_key, weakness
from medgen.imaging.cases.left_out import LeftOut
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.planning import PlannedCase
from medgen.imaging.cases.preprocessing import Done, header_of
from medgen.imaging.cases.splits import parse_fractions
from medgen.imaging.cases.workers import Workers
from medgen.imaging.labels.table import LabelTable
from medgen.imaging.pairs.survey import Survey, survey, told, worked
from medgen.imaging.pairs.table import Pair, PairTable, annotated
from medgen.imaging.pairs.work import PairsTask, show
from medgen.reporting import Reporter


def preprocess_pairs(
    pairs: PairTable,
    output: str,
    options: PreprocessOptions,
    reporter: Reporter,
    *,
    shard: tuple[int, int] = (0, 1),
    force: bool = False,
) -> Done:
    """Read the images that a table names, and write one set with their texts to `output`.

    The table is read twice: for a look at all rows before anything is written, and to read the images. Raises DataError
    naming the first row that fails, unless `options.keep_going`.
    """
    secret = secret_key()
    if warning := weakness():
        reporter.warn(warning)
    fractions = parse_fractions(options.split_fractions)
    if options.drop_duplicates and shard[1] > 1:
        raise UsageError("--drop-duplicates must see all cases, a shard sees only its own; use one of the two")
    pairs.tell(reporter)
    left_out = LeftOut(reporter, options.keep_going)
    with Workers(options.workers) as workers:
        found = survey(pairs, options, workers, left_out, reporter)
        plan, settled = found.settle(options, reporter)
        table = LabelTable(pairs.file, (), [], classes=plan.classes)
        header = mark_shard(header_of(plan, options, found.sources, **pairs.settings), *shard)
        assembler = Assembler(plan, options, secret, fractions)
        rows = take_shard(_usable(found), *shard)
        total = len(range(shard[0], found.count, shard[1]))
        with create_set(output, header, force=force) as writer, reporter.progress(total, "images") as advance:
            for row, shown in worked(workers, show, PairsTask((), options, settled), rows):
                if not isinstance(row, Pair):
                    raise TypeError("a faulty row among the usable ones")
                outcome: object = None
                if isinstance(shown, str):
                    left_out.add(told(pairs, row, shown), {"row": row.number})
                else:
                    depth = len(shown.stack.slices)
                    annotation = annotated(table, pairs, row, depth)
                    case = PlannedCase(shown.stack, annotation, [], tuple(range(depth)), shown.plane)
                    outcome = assembler.take(case, row.number, shown.slab, last=True)
                    if isinstance(outcome, MedgenError):
                        left_out.add(told(pairs, row, str(outcome)), {"row": row.number})
                    elif outcome is not None:
                        writer.write(outcome)
                advance()
            if total and not writer.digest.cases:
                raise DataError(f"all {total} rows failed; the first: {left_out.reasons[0]}")
    assembler.report(reporter, lambda number: f"row {number}", whole=shard[1] == 1)
    duplicates = tuple(assembler.duplicates.placed(lambda number: {"row": number}))
    return Done(
        writer.digest.cases, writer.digest.slices, tuple(left_out.reasons), tuple(left_out.places), duplicates, ()
    )


def _usable(found: Survey) -> Iterator[Pair]:
    """The rows that passed the look."""
    for row in found.pairs.rows():
        if isinstance(row, Pair) and row.number not in found.faults:
            yield row
