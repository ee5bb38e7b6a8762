"""The masks of all cases: which case has which, which classes the set has, and which masks are invalid or unused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from medgen.artifacts.classes import NORMAL
from medgen.config import did_you_mean
from medgen.errors import DataError, UsageError
from medgen.imaging.cases.left_out import LeftOut
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.workers import Workers
from medgen.imaging.labels.annotations import Annotation
from medgen.imaging.labels.table import LabelTable
from medgen.imaging.masks.classes import Declared, MaskClasses, decide, declared, told_classes
from medgen.imaging.masks.finding import Masks
from medgen.imaging.masks.matching import SliceMasks, is_picture, matched_slices
from medgen.imaging.masks.sources import Seen, SurveyTask, layers_of, skipping, survey
from medgen.imaging.reading.archive import real_path
from medgen.imaging.reading.series import SliceStack
from medgen.imaging.reading.slices import SliceFacts
from medgen.reporting import Reporter
from medgen.spelling import spelled_twice

OPTIONAL = f"label the image '{NORMAL}' in --labels, or give --masks-optional"


class CaseMasks:
    """Assigns masks to cases, from a location of masks or from the column `mask` of a table."""

    def __init__(
        self,
        place: str | None,
        table: LabelTable | None,
        pictures: Sequence[SliceFacts],
        stacks: Sequence[SliceStack],
        optional: bool,
    ) -> None:
        """UsageError if both are given."""
        if place and table and "mask" in table.columns:
            raise UsageError(f"--masks and the column 'mask' of {table.file} both name masks; use one of them")
        self._table = table
        entries = {(item.entry.path, item.entry.member) for item in pictures}
        self._found = Masks(place, entries, stacks) if place else None
        self._optional = optional
        self.missing = 0  # images that count as negatives

    def of(self, stack: SliceStack, annotation: Annotation) -> SliceMasks:
        """The mask of each slice. DataError if one is missing, unless masks are optional or the case is negative."""
        found = self._found.of_stack(stack) if self._found else matched_slices(annotation.masks, stack)
        if found is not None and None not in found:
            return found
        if not (self._optional or self.is_negative(annotation, len(stack.slices))):
            what = "not every slice has a mask" if found else "no mask found for it"
            raise DataError(f"{stack.name}: {what}; {OPTIONAL}")
        self.missing += 1
        return found or [None] * len(stack.slices)

    def is_negative(self, annotation: Annotation, depth: int) -> bool:
        """Whether the labels say that a case has no finding."""
        if self._table is None:
            return False
        normal = self._table.classes.get(NORMAL)
        if normal is not None and [annotation.labels.get(index) for index in range(depth)] == [normal] * depth:
            return True
        return "has_nodule" in self._table.fields and not annotation.ill(self._table.fields)

    def report_unused(self, sources: Sequence[str], left_out: LeftOut) -> None:
        """Report masks that cannot be read, and those without an image, unless the user selected single images."""
        if self._found is None:
            return
        for reason in self._found.unreadable:
            left_out.add(reason, {})
        chosen = all(Path(source).is_file() and not source.endswith(".zip") for source in sources)
        if chosen and not self._found.single:
            return
        for entry in self._found.orphans:
            if is_picture(entry):
                left_out.add(f"{entry.name}: a mask without its image among the sources", {})


def plan_classes(
    cases: Sequence[tuple[SliceStack, Annotation, SliceMasks]],
    masks: CaseMasks,
    place: str | None,
    options: PreprocessOptions,
    workers: Workers,
    left_out: LeftOut,
    reporter: Reporter,
) -> tuple[list[int], MaskClasses]:
    """Check all masks: returns the indices of the cases whose masks are valid, and the classes of the set."""
    tasks = [SurveyTask(tuple(mask for mask in found if mask)) for _, _, found in cases]
    every = [index for index, task in enumerate(tasks) if task.masks]
    if not every:
        raise DataError("no image has a mask; look at the names of the files, or leave --masks out")
    seen: dict[int, Seen] = {}
    sound = [index for index in range(len(cases)) if index not in set(every)]

    def fault(index: int, reason: str) -> None:
        left_out.add(reason, left_out.place(cases[index][0].first.entry))

    for index, (task, outcome) in zip(every, workers.map(survey, [tasks[index] for index in every]), strict=True):
        if isinstance(outcome, Seen):
            seen[index] = outcome
        else:
            fault(index, str(outcome) if isinstance(outcome, DataError) else f"{task}: {outcome}")
    said = declared(options.mask_classes, place)
    classes = _decided(said, seen, tasks)
    if said and said.told_by != "--mask-classes":
        reporter.say(f"the classes of masks are named by {said.told_by}")
    unread: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for index, what in seen.items():
        stack, annotation, _ = cases[index]
        name = tasks[index].masks[0].entry.name
        unread.update(layer for layer in what.layers if layer not in classes.names)
        overlaps = {pair: count for pair, count in what.overlaps.items() if set(pair) <= set(classes.names)}
        if reason := _fault_of(what, name, classes, overlaps):
            fault(index, reason)
        elif not _shown(what, classes) and not (
            options.masks_optional or masks.is_negative(annotation, len(stack.slices))
        ):
            fault(index, f"{name}: an empty mask, nothing but background; {OPTIONAL}")
        else:
            shared.update({" and ".join(pair): count for pair, count in overlaps.items()})
            sound.append(index)
    if not any(_shown(what, classes) for what in seen.values()):
        raise DataError(f"no mask shows any class but the background; {told_classes(classes)}")
    for number, name in enumerate(classes.names[1:], 1):
        if not any(number in _shown(what, classes) for what in seen.values()):
            reporter.warn(f"no mask shows the class {name}{did_you_mean(name, unread)}")
    _tell(classes, masks, unread, shared, any(what.peak for what in seen.values()), reporter)
    if twice := spelled_twice(classes.names):
        reporter.warn(f"'{twice[0]}' and '{twice[1]}' are two classes of the masks; are they one, spelled in two ways?")
    gaps = [one for index in sound for one in skipping(cases[index][2]).items() if one[0] in classes.names]
    if gaps:
        name, entry = gaps[0]
        reporter.warn(
            f"{entry.name}: {name} is drawn on every second slice at most, and is background between them"
            + f"; so are {len(gaps) - 1} more" * (len(gaps) > 1)
        )
    return sorted(sound), classes


def _decided(said: Declared | None, seen: Mapping[int, Seen], tasks: Sequence[SurveyTask]) -> MaskClasses:
    values: dict[int, tuple[int, int]] = {}
    examples: dict[int, str] = {}
    for index, what in seen.items():
        for value, (pixels, between) in what.values.items():
            before = values.get(value, (0, 0))
            values[value] = before[0] + pixels, before[1] + between
            examples.setdefault(value, tasks[index].masks[0].entry.name)
    drawn = {layer for index in seen for mask in tasks[index].masks for layer in layers_of(mask)}
    rarest = examples[min(values, key=lambda value: values[value])] if values else ""
    peak = max((what.peak for what in seen.values()), default=0.0)
    return decide(said, values, peak, list(dict.fromkeys(name for _, name in sorted(drawn))), rarest)


def _fault_of(what: Seen, name: str, classes: MaskClasses, overlaps: Mapping[tuple[str, str], int]) -> str:
    """Why a mask cannot be used; "" if it can."""
    unknown = sorted(set(what.values) - set(classes.values))
    if unknown:
        return classes.unknown(name, unknown)
    if overlaps and not classes.ordered:
        (one, other), count = max(overlaps.items(), key=lambda item: item[1])
        return (
            f"{name}: {one} and {other} share {count} pixels, and a pixel has one class; list the classes with "
            f"--mask-classes {one},{other}: where they overlap, the later one is on top"
        )
    return ""


def _shown(what: Seen, classes: MaskClasses) -> set[int]:
    """The classes, except background, that a mask has pixels of."""
    found = {number for number, name in enumerate(classes.names) if what.layers[name]}
    found |= {number for number, value in enumerate(classes.values) if value in what.values}
    if what.peak > classes.level:
        found.add(1)
    return found - {0}


def _tell(
    classes: MaskClasses,
    masks: CaseMasks,
    unread: Mapping[str, int],
    shared: Mapping[str, int],
    smeared: bool,
    reporter: Reporter,
) -> None:
    reporter.say(f"of masks, {told_classes(classes)}")
    if smeared:
        reporter.say(f"masks in JPEG, which blurs values, were cut at {classes.level:g}")
    if unread:
        reporter.say(f"left out of the masks, because --mask-classes does not name them: {', '.join(sorted(unread))}")
    for pair, count in shared.items():
        reporter.say(f"{pair} share {count} pixels: the later one of --mask-classes is on top")
    if masks.missing:
        reporter.say(f"{masks.missing} images have no mask: they count as negatives, background throughout")


def named_masks(table: LabelTable | None) -> set[Path]:
    """The files that the column `mask` of a table names, which are not images."""
    if table is None or "mask" not in table.columns:
        return set()
    return {real_path(table.file.parent / row["mask"]) for _, row in table.rows if row["mask"]}
