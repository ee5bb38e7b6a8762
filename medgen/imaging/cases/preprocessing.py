"""`medgen preprocess`: turn a plan into cases, read by worker processes and written in order, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from medgen.artifacts.provenance import derive, fingerprint
from medgen.artifacts.schema import SetHeader
from medgen.artifacts.sets import create_set
from medgen.artifacts.sharding import mark_shard, take_shard
from medgen.config import plain
from medgen.errors import DataError, MedgenError, UsageError
from medgen.imaging.cases.assembly import Assembler, patient_of
from medgen.imaging.cases.identity import secret_key, telling_slice, weakness
from medgen.imaging.cases.left_out import LeftOut, Place
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.planning import Plan, PlannedCase, SourceInputs, make_plan, telling_piece
from medgen.imaging.cases.splits import parse_fractions
from medgen.imaging.cases.work import Piece, ReadTask, Slab, read
from medgen.imaging.cases.workers import WorkerDied, Workers
from medgen.imaging.labels.annotations import Annotation
from medgen.imaging.masks.sources import files_of
from medgen.imaging.reading.series import SliceStack
from medgen.reporting import Reporter

SLAB_SLICES = 16  # decoded in one task; bounds the memory of a worker, and keeps all of them busy on one case

_NOT_PROVENANCE = ("workers", "keep_going", "encoding")  # options that do not change the result
_OF_MASKS = ("mask_classes", "masks_optional")  # nor do these without masks


@dataclass(frozen=True)
class Done:
    """The outcome of `preprocess`."""

    cases: int
    slices: int
    left_out: tuple[str, ...]  # reasons, which name files
    places: tuple[Place, ...]  # where they are, by number
    duplicates: tuple[dict[str, object], ...]  # pairs of cases with equal pixels, by number
    stacks: tuple[tuple[str, SliceStack], ...]  # of each case, by its id; the name of the stack must stay in memory


def preprocess(
    inputs: SourceInputs,
    output: str,
    options: PreprocessOptions,
    reporter: Reporter,
    *,
    shard: tuple[int, int] = (0, 1),
    force: bool = False,
) -> Done:
    """Read `inputs` and write one image set to `output`.

    Raises DataError naming the first file that fails, unless `options.keep_going`.
    """
    secret = secret_key()
    if told := weakness():
        reporter.warn(told)
    fractions = parse_fractions(options.split_fractions)
    if options.template is not None:
        raise UsageError("--template makes texts from the columns of one CSV of paths, given as the only source")
    if options.healthy_slices is not None and options.thickness is not None:
        raise UsageError("--healthy-slices picks single slices, --thickness needs all of them; use one of the two")
    if options.healthy_slices is not None and options.mend:
        raise UsageError("--healthy-slices picks single slices, --mend needs all of them; use one of the two")
    if options.drop_duplicates and shard[1] > 1:
        raise UsageError("--drop-duplicates must see all cases, a shard sees only its own; use one of the two")
    left_out = LeftOut(reporter, options.keep_going)
    with Workers(options.workers) as workers:
        plan = make_plan(inputs, options, workers, left_out, reporter)
        if options.thickness is not None and all(len(case.keep) == 1 for case in plan.cases):
            reporter.warn("--thickness has no effect: these are single images, and it resamples stacks of slices")
        header = mark_shard(header_of(plan, options, fingerprint(_facts(plan))), *shard)
        plan = replace(plan, cases=tuple(take_shard(plan.cases, *shard)))
        assembler = Assembler(plan, options, secret, fractions)
        total = sum(len(case.keep) for case in plan.cases)
        stacks: list[tuple[str, SliceStack]] = []
        with create_set(output, header, force=force) as writer, reporter.progress(total, "slices") as advance:
            for task, slab in workers.map(read, _tasks(plan, options)):
                case = plan.cases[task.case]
                slab = _read_alone(task) if isinstance(slab, WorkerDied) else slab
                outcome = assembler.take(case, task.case, slab, last=task.last)
                if isinstance(outcome, MedgenError):
                    left_out.add(str(outcome), left_out.place(case.stack.first.entry))
                elif outcome is not None:
                    writer.write(outcome)
                    stacks.append((outcome.id, case.stack))
                advance(sum(len(piece.frames) for piece in task.pieces))
            if plan.cases and not writer.digest.cases:
                raise DataError(f"all {len(plan.cases)} cases failed; the first: {left_out.reasons[0]}")
    assembler.report(reporter, lambda number: plan.cases[number].stack.name, whole=shard[1] == 1)
    places = [left_out.place(case.stack.first.entry) for case in plan.cases]
    duplicates = tuple(assembler.duplicates.placed(places.__getitem__))
    return Done(
        writer.digest.cases,
        writer.digest.slices,
        tuple(left_out.reasons),
        tuple(left_out.places),
        duplicates,
        tuple(stacks),
    )


def _read_alone(task: ReadTask) -> Slab | MedgenError:
    """A slab at which a worker died: read file by file; one that kills another worker has failed, else the slab is."""
    with Workers(1) as worker:
        outcomes = [outcome for _, outcome in worker.map(read, [*task.parts(), task])]
    return next((outcome for outcome in outcomes if isinstance(outcome, MedgenError)), outcomes[-1])


def _tasks(plan: Plan, options: PreprocessOptions) -> Iterator[ReadTask]:
    """The slices to read, in order, in slabs; a file is never cut in two."""
    keep_physical = plan.encoding.per_case or options.thickness is not None
    for number, case in enumerate(plan.cases):
        pieces = list(_pieces(case))
        telling = None if telling_slice(case.stack) in case.keep else telling_piece(case.stack)
        slabs: list[list[Piece]] = [[]]
        for piece in pieces:
            if slabs[-1] and sum(len(other.frames) for other in slabs[-1]) + len(piece.frames) > SLAB_SLICES:
                slabs.append([])
            slabs[-1].append(piece)
        for part, slab in enumerate(slabs):
            yield ReadTask(
                case=number,
                last=part == len(slabs) - 1,
                pieces=tuple(slab),
                plane=case.plane,
                spacing=(case.stack.spacing[1], case.stack.spacing[2]),
                encoding=plan.encoding,
                channels=plan.channels,
                hu=case.stack.first.kind == "hu",
                mask_classes=plan.mask_classes,
                mask_background=options.mask_background,
                keep_physical=keep_physical or case.mending is not None,
                nameless=not patient_of(case),
                telling=telling if part == len(slabs) - 1 else None,
            )


def _pieces(case: PlannedCase) -> Iterator[Piece]:
    """Neighbouring slices of one file together."""
    run: list[int] = []
    for index in case.keep:
        if run and case.stack.slices[run[0]].entry != case.stack.slices[index].entry:
            yield _piece(case, run)
            run = []
        run.append(index)
    yield _piece(case, run)


def _piece(case: PlannedCase, run: list[int]) -> Piece:
    slices = [case.stack.slices[index] for index in run]
    masks = tuple(case.masks[index] for index in run) if case.masks else ()
    shifts = tuple(case.mending.shifts[index] for index in run) if case.mending else ()
    frames = tuple(item.frame for item in slices)
    return Piece(slices[0].entry, slices[0].format, frames, masks, slices[0].plain, shifts)


def header_of(plan: Plan, options: PreprocessOptions, sources: str, **settings: object) -> SetHeader:
    """The header of the set; `sources` identifies the files, `settings` are what the provenance tells besides."""
    hidden = _NOT_PROVENANCE if plan.mask_classes else (*_NOT_PROVENANCE, *_OF_MASKS)
    config = {name: value for name, value in plain(options).items() if name not in hidden} | settings
    notes = {}
    if options.mask_background:
        notes["background"] = "outside the lungs set to -1000 HU"
    if plan.encoding.percentiles:
        low, high = plan.encoding.percentiles
        notes["intensity"] = f"each case scaled by its own percentiles {low:g} and {high:g}"
    if options.healthy_slices is not None and plan.vector_fields:
        notes["slices"] = f"only those with a finding, and at most {options.healthy_slices} others a case"
    return SetHeader(
        kind="image",
        provenance=derive("preprocess", config, sources=sources),
        intensity=plan.encoding.intensity,
        vector_fields=plan.vector_fields,
        label_names=tuple(plan.classes),
        mask_names=plan.mask_classes.names if plan.mask_classes else (),
        notes=notes,
    )


def _facts(plan: Plan) -> Iterator[str | int]:
    """What identifies the sources: sizes, samples of content and labels, and no name, which could be guessed."""
    yield from plan.classes
    for case in plan.cases:
        yield from (f"{item.entry.size} {item.sample}" for item in case.stack.slices)
        yield from (f"{entry.size} {entry.sample()}" for entry in files_of(case.masks))
        yield from annotation_facts(case.annotation)


def annotation_facts(told: Annotation) -> Iterator[str]:
    """What identifies the labels of a case."""
    for facts in (told.findings, told.labels, told.texts, told.modalities):
        yield from (f"{index}: {fact}" for index, fact in sorted(facts.items()))
    yield from (told.split, told.synthetic)
    yield from (f"doubtful: {index}" for index in sorted(told.doubtful))
