"""From sources and options to a plan: the cases, what is known about each, and how they will be stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medgen.artifacts.stacks import MENDABLE
from medgen.errors import DataError, InputMissingError, UsageError
from medgen.imaging.cases.choice import chosen, kept_slices, of_one_scale, of_one_size
from medgen.imaging.cases.identity import case_id, telling_slice
from medgen.imaging.cases.intensity import Encoding, plan_encoding
from medgen.imaging.cases.left_out import LeftOut, Place
from medgen.imaging.cases.masking import CaseMasks, named_masks, plan_classes
from medgen.imaging.cases.mending import Mending, obstacle, plan_mending, plane_of
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.work import PassedOver, Piece, Scanned, ScanTask, TellingTask, scan, telling_digest
from medgen.imaging.cases.workers import Workers
from medgen.imaging.geometry import PlaneMap, parse_size
from medgen.imaging.labels import lidc
from medgen.imaging.labels import table as csv_labels
from medgen.imaging.labels.annotations import NODULE_FIELDS, Annotation
from medgen.imaging.labels.names import CaseNames
from medgen.imaging.masks.classes import MaskClasses
from medgen.imaging.masks.finding import without_masks
from medgen.imaging.masks.matching import SliceMasks
from medgen.imaging.reading.archive import Entry, FilesFound, enumerate_sources, real_path
from medgen.imaging.reading.series import SliceStack, build_stacks
from medgen.imaging.reading.slices import SliceFacts
from medgen.reporting import Reporter

SCAN_FILES = 32  # headers read in one task
MAX_SLICES = 1 << 16  # of one case after resampling


@dataclass(frozen=True)
class SourceInputs:
    """What the command line names: image sources, and the labels and masks for them."""

    sources: tuple[str, ...]
    labels: Path | None = None
    lidc_xml: tuple[Path, ...] = ()
    masks: str | None = None
    folder_names: bool = True
    """Whether the name of a source folder counts for the ids of files that have no other identity."""


@dataclass(frozen=True)
class PlannedCase:
    """One case to be made."""

    stack: SliceStack
    annotation: Annotation
    masks: SliceMasks  # empty if none are asked for
    keep: tuple[int, ...]  # indices of the slices that are kept
    plane: PlaneMap  # of the first slice
    mending: Mending | None = None


@dataclass(frozen=True)
class Plan:
    """All cases, in order, and their common properties."""

    cases: tuple[PlannedCase, ...]
    encoding: Encoding
    channels: int
    vector_fields: tuple[str, ...]
    classes: dict[str, int]
    labelled: bool  # whether there is a `label` array
    mask_classes: MaskClasses | None = None  # None: no `mask` array


def make_plan(
    inputs: SourceInputs, options: PreprocessOptions, workers: Workers, left_out: LeftOut, reporter: Reporter
) -> Plan:
    """Scan all headers, build stacks, attach labels and masks, and choose one encoding.

    Pixels are read only if labels name cases by their ids, and then one slice of each stack.
    """
    size = parse_size(options.size)
    sources, table = _tables(inputs, options, left_out)
    if table and table.fields and inputs.lidc_xml:
        raise UsageError("the labels and --lidc-xml both give vectors; use one of them")
    files = enumerate_sources(sources, folder_names=inputs.folder_names)
    slices = _scan_all(files, sources, _none_of(inputs.masks, sources, table), options, workers, left_out, reporter)
    every, copies = build_stacks(slices)
    if copies:
        reporter.warn(f"{len(copies)} files are copies of others and are left aside, such as {copies[0]}")
    stacks = chosen(every, options, reporter)
    if not stacks:
        enough = f", no stack of {options.min_slices} or more slices" if options.min_slices > 1 else ""
        raise DataError(f"{', '.join(inputs.sources)}: no images left to preprocess{enough}")
    annotations = {index: Annotation() for index in range(len(stacks))}
    fields: tuple[str, ...] = ()
    classes: dict[str, int] = {}
    labelled = False
    if table:
        names = CaseNames(stacks, lambda: _ids(stacks, workers))
        for number, error in csv_labels.apply(table, stacks, names, annotations):
            left_out.add(str(error), {"row": number})
        fields, classes, labelled = table.fields, table.classes, "label" in table.columns
    if inputs.lidc_xml:
        fields = NODULE_FIELDS
        for number, (file, named) in enumerate(lidc.xml_files(inputs.lidc_xml), 1):
            try:
                reading = lidc.read_xml(file)
            except DataError as error:
                left_out.add(str(error), {"xml": number})
                continue
            if named and reading is None:
                raise DataError(f"{file}: holds no LIDC reading of a CT")
            there = reading and lidc.annotate(reading, stacks, annotations, options.lidc_readers, reporter.warn)
            if reading and named and not there:
                left_out.add(f"{file}: the series it describes is not among the sources", {"xml": number})
    if options.healthy_slices is not None and not fields:
        reporter.warn("--healthy-slices has no effect: without vectors no slice is known to have a finding")
    masked = inputs.masks or (table is not None and "mask" in table.columns)
    if options.mask_classes and not masked:
        reporter.warn("--mask-classes has no effect without masks: give --masks, or a table with a column 'mask'")
    masks = CaseMasks(inputs.masks, table, slices, every, options.masks_optional) if masked else None
    if masks:
        masks.report_unused(sources, left_out)
    cases = []
    for index, stack in enumerate(stacks):
        try:
            found = masks.of(stack, annotations[index]) if masks else []
            mending = plan_mending(stack) if options.mend else None
            if options.thickness is not None and stack.flaws and mending is None and len(stack.slices) > 1:
                flaw, remedy = next(iter(stack.flaws.values())), obstacle(stack) or "give --mend"
                raise DataError(
                    f"{stack.name}: {flaw}; its slices cannot be resampled along z: {remedy}, or leave --thickness out"
                )
            extent = stack.offsets[-1] - stack.offsets[0]
            if options.thickness is not None and extent > MAX_SLICES * options.thickness:
                raise DataError(
                    f"{stack.name}: its slices reach over {extent:.3g} mm, as its header says: more than {MAX_SLICES} "
                    f"slices of {options.thickness:g} mm"
                )
            if options.spacing is not None and not stack.measured:
                raise DataError(f"{stack.name}: does not state its pixel spacing; use --size instead of --spacing")
            if labelled and set(annotations[index].labels) != set(range(len(stack.slices))):
                raise DataError(f"{stack.name}: has no label in {table.file if table else ''}")
        except (DataError, InputMissingError) as error:
            left_out.add(str(error), left_out.place(stack.first.entry))
            continue
        _tell_flaws(stack, mending, options, reporter)
        keep = kept_slices(stack, annotations[index], fields, options.healthy_slices if fields else None)
        if keep:
            plane = plane_of(stack, mending, size, options)
            cases.append(PlannedCase(stack, annotations[index], found, keep, plane, mending))
    if not cases:
        raise DataError(f"{', '.join(inputs.sources)}: no images left to preprocess")
    if options.train_only and options.train_only not in classes:
        told = f"its classes are {', '.join(classes)}" if classes else "there is no column 'label' of names"
        raise UsageError(f"--train-only {options.train_only}: no case has that label: {told}")
    kind, fitting = of_one_scale([case.stack for case in cases], options, left_out)
    cases = [cases[index] for index in fitting]
    mask_classes = None
    if masks:
        masked_cases = [(case.stack, case.annotation, case.masks) for case in cases]
        sound, mask_classes = plan_classes(masked_cases, masks, inputs.masks, options, workers, left_out, reporter)
        cases = [cases[index] for index in sound]
        if not cases:
            raise DataError(f"{', '.join(inputs.sources)}: no images left to preprocess")
    encoding = plan_encoding(kind, options.window)
    if options.mask_background and encoding.intensity.unit != "HU":
        raise UsageError("--mask-background finds lungs in CT, but the images are not CT")
    if fields:
        _tell_unlabelled(cases, reporter)
    silent = sum(case.stack.first.format == "nifti" and not case.stack.first.modality for case in cases)
    if silent and encoding.per_case and options.window == "auto":
        reporter.say(
            f"{silent} NIfTI volumes do not say what they show: each is scaled by percentiles; --modality CT keeps HU"
        )
    colour = any(case.stack.first.colour for case in cases)
    channels = int(options.channels) if options.channels != "auto" else 3 if colour else 1
    same = of_one_size([(case.stack, case.plane, len(case.keep)) for case in cases], left_out)
    return Plan(tuple(cases[index] for index in same), encoding, channels, fields, classes, labelled, mask_classes)


def _ids(stacks: Sequence[SliceStack], workers: Workers) -> list[str]:
    """The id of each stack's case, without patient and number; "" if its pixels cannot be read."""
    tasks = [TellingTask(telling_piece(stack), stack.first.kind == "hu") for stack in stacks]
    outcomes = [outcome for _, outcome in workers.map(telling_digest, tasks)]
    return [
        case_id(len(stack.slices), outcome) if isinstance(outcome, bytes) else ""
        for stack, outcome in zip(stacks, outcomes, strict=True)
    ]


def telling_piece(stack: SliceStack) -> Piece:
    """The slice whose pixels name the case of a stack."""
    item = stack.slices[telling_slice(stack)]
    return Piece(item.entry, item.format, (item.frame,), plain=item.plain)


def _tables(
    inputs: SourceInputs, options: PreprocessOptions, left_out: LeftOut
) -> tuple[list[str], csv_labels.LabelTable | None]:
    """The sources, with a CSV replaced by the files it names, and the table of labels, which may be that CSV."""
    sources: list[str] = []
    labels = inputs.labels
    table = csv_labels.read_table(labels, options.vector_fields, options.encoding or "") if labels else None
    for source in inputs.sources:
        if not source.lower().endswith(".csv"):
            sources.append(source)
            continue
        if table:
            raise UsageError(f"{source}: only one CSV can be used, as source or as --labels")
        table = csv_labels.read_table(Path(source), options.vector_fields, options.encoding or "")
        paths, faults = csv_labels.image_paths(table)
        table.faults += faults
        sources += paths
    for number, fault in table.faults if table else ():
        left_out.add(fault, {"row": number})
    if table and (unused := csv_labels.unused_warning(table)):
        left_out.reporter.warn(unused)
    if not sources:
        raise DataError(f"{', '.join(inputs.sources)}: names no existing image")
    return sources, table


def _scan_all(
    found: FilesFound,
    sources: Sequence[str],
    is_mask: Callable[[Entry], bool],
    options: PreprocessOptions,
    workers: Workers,
    left_out: LeftOut,
    reporter: Reporter,
) -> list[SliceFacts]:
    left_out.number(found.entries)
    for name, reason in found.refused:
        left_out.add(f"{name}: {reason}", _source_of(name, sources))
    entries = [entry for entry in found.entries if not is_mask(entry)]
    pictures = without_masks(entries, sources)
    passed_over = Counter({"": found.skipped, "masks": len(entries) - len(pictures)})
    slices: list[SliceFacts] = []
    for task, outcomes in workers.map(scan, _scan_tasks(pictures, sources, options)):
        told = outcomes if isinstance(outcomes, list) else _scanned_alone(task)
        for entry, outcome in zip(task.entries, told, strict=True):
            if isinstance(outcome, str):
                left_out.add(outcome, left_out.place(entry))
            elif isinstance(outcome, PassedOver):
                passed_over[outcome.holds] += 1
            else:
                slices += outcome
    _tell_passed_over(+passed_over, reporter)
    return slices


def _tell_passed_over(files: Counter[str], reporter: Reporter) -> None:
    """Report how many files were skipped, by what they hold."""
    known = [f"{what} ({count})" for what, count in sorted(files.items()) if what]
    if files:
        told = f": {', '.join(known)}" if known else ""
        reporter.say(f"{files.total()} files that show no patient were skipped{told}")


def _source_of(name: str, sources: Sequence[str]) -> Place:
    """The place of a file of which only the name is known."""
    for number, source in enumerate(map(str, map(Path, sources)), 1):
        if name == source or name.startswith((f"{source}/", f"{source}!")):
            return {"source": number}
    return {}


def _scanned_alone(task: ScanTask) -> Iterator[Scanned]:
    """The outcomes for files one of which killed its worker: each is tried alone, and any that kills another fails."""
    with Workers(1) as worker:
        for _, outcomes in worker.map(scan, task.parts()):
            yield outcomes[0] if isinstance(outcomes, list) else str(outcomes)


def _scan_tasks(entries: Sequence[Entry], sources: Sequence[str], options: PreprocessOptions) -> Iterator[ScanTask]:
    for start in range(0, len(entries), SCAN_FILES):
        chunk = tuple(entries[start : start + SCAN_FILES])
        named = tuple(not entry.member and entry.path == sources[entry.source] for entry in chunk)
        yield ScanTask(chunk, named, options.modality, options.series)


def _none_of(masks: str | None, sources: Sequence[str], table: csv_labels.LabelTable | None) -> Callable[[Entry], bool]:
    """A test for files that are masks and not images: those in the folder of masks, and those that a table names.

    In a folder that holds both images and masks, masks are recognised by their file names.
    """
    named = named_masks(table)
    folder = real_path(masks) if masks and "{stem}" not in masks else None
    if masks and folder is None:
        folder = real_path(masks).parent
    if folder in {place for source in sources for place in (real_path(source), *real_path(source).parents)}:
        folder = None

    def is_mask(entry: Entry) -> bool:
        path = real_path(entry.path)
        return path in named or path == folder or folder in path.parents

    return is_mask


def _tell_flaws(stack: SliceStack, mending: Mending | None, options: PreprocessOptions, reporter: Reporter) -> None:
    """Report flaws. They do not affect single slices, but matter for training on volumes."""
    if mending is not None:
        reporter.say(f"{stack.name}: {mending.told()}")
    elif stack.first.position is not None:
        kept = "its slices are kept as they are"
        if options.mend:
            kept += f", for {obstacle(stack)}"
        elif set(stack.flaws) & set(MENDABLE) and not obstacle(stack):
            kept += " (--mend resamples them)"
        for flaw in stack.flaws.values():
            reporter.warn(f"{stack.name}: {flaw}; {kept}")


def _tell_unlabelled(cases: Sequence[PlannedCase], reporter: Reporter) -> None:
    without = sum(not case.annotation.findings for case in cases)
    if without:
        reporter.say(f"{without} of {len(cases)} cases have no row with a vector: they count as healthy (all zeros)")
