"""Which stacks become cases, and which of their slices: those asked for, as far as one set can hold them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from medgen.errors import DataError
from medgen.imaging.cases.identity import split_key
from medgen.imaging.cases.intensity import PERCENTILES, is_relative
from medgen.imaging.cases.left_out import LeftOut
from medgen.imaging.cases.options import PreprocessOptions, asks_for
from medgen.imaging.cases.splits import uniform
from medgen.imaging.geometry import PlaneMap
from medgen.imaging.labels.annotations import Annotation
from medgen.imaging.reading.series import SliceStack
from medgen.imaging.reading.slices import MAX_PIXELS, Kind
from medgen.reporting import Reporter

NAMED = 3  # stacks that an error tells one by one

Scale = tuple[Kind | None, bool | None]  # and whether there is colour; None where it does not count

_WORDS: dict[Kind | None, str] = {"hu": "HU", "byte": "8 bits", "other": "a scale of its own"}


def chosen(stacks: Sequence[SliceStack], options: PreprocessOptions, reporter: Reporter) -> list[SliceStack]:
    """The stacks that the options ask for; reports how many are skipped, and why.

    Screen captures state the modality of what the screen showed, but asking for a modality does not select them.
    """
    asked = [stack for stack in stacks if not options.series or asks_for(options.series, stack.first.modality)]
    captures = _captures(asked) if options.series else []
    kept = [stack for stack in asked if stack not in captures]
    scans = [stack for stack in kept if not stack.first.localizer] or kept
    long = [stack for stack in scans if len(stack.slices) >= options.min_slices]
    for many, few, what in (
        (stacks, asked, f"stacks of other modalities than {', '.join(options.series)}"),
        (asked, kept, "captures of the screen"),
        (kept, scans, "localizers"),
        (scans, long, f"stacks of fewer than {options.min_slices} slices"),
    ):
        if len(few) < len(many):
            reporter.say(f"{len(many) - len(few)} {what} skipped")
    return long


def _captures(stacks: Sequence[SliceStack]) -> list[SliceStack]:
    """Captures of a screen or film whose scale differs from that of all other stacks of their modality, if any."""
    deep = _of_any_depth(stacks)
    scales: dict[str, set[Kind]] = defaultdict(set)
    for stack in stacks:
        if not stack.first.capture:
            scales[stack.first.modality].add(_kind(stack, deep))
    captures = [stack for stack in stacks if stack.first.capture and scales[stack.first.modality]]
    return [stack for stack in captures if stack.first.kind not in scales[stack.first.modality]]


def of_one_scale(stacks: Sequence[SliceStack], options: PreprocessOptions, left_out: LeftOut) -> tuple[Kind, list[int]]:
    """The scale of most slices, and the indices of the stacks that have it: a set has one, and one number of channels.

    The others are left out, or named together in a DataError that says how to choose. They do not affect how the rest
    is stored.
    """
    deep = _of_any_depth(stacks)
    colours = options.channels == "auto" and any(stack.first.format == "dicom" for stack in stacks)
    scales = [_scale(stack, deep, options, colours=colours) for stack in stacks]
    slices: Counter[Scale] = Counter()
    for stack, scale in zip(stacks, scales, strict=True):
        slices[scale] += len(stack.slices)
    usual = slices.most_common(1)[0][0]
    fitting = [index for index, scale in enumerate(scales) if scale == usual]
    odd = [stack for stack, scale in zip(stacks, scales, strict=True) if scale != usual]
    most = [stacks[index] for index in fitting]
    if odd:
        remedy = _remedy(odd, most, options)
        if not options.keep_going:
            told = ", ".join(f"{stack.name} ({_described(stack)})" for stack in odd[:NAMED])
            more = f" and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
            raise DataError(f"{told}{more}: not on the same scale as the rest ({_described(most[0])}); {remedy}")
        for stack in odd:
            reason = f"{stack.name} ({_described(stack)}): not on the same scale as the rest; {remedy}"
            left_out.add(reason, left_out.place(stack.first.entry))
    shallow = sum(stack.first.kind == "byte" for stack in most)
    if usual[0] == "other" and shallow:
        left_out.reporter.warn(
            f"{shallow} of {len(most)} cases have 8 bits, the others of their modality more: each case is scaled by "
            "percentiles of its own"
        )
    return usual[0] or "other", fitting


def of_one_size(cases: Sequence[tuple[SliceStack, PlaneMap, int]], left_out: LeftOut) -> list[int]:
    """The indices of the cases whose slices have the size of most; cases are stacks, with their grid and slices kept.

    The others are left out. DataError if no case is left.
    """
    sound: dict[int, tuple[int, int]] = {}
    slices: Counter[tuple[int, int]] = Counter()
    for index, (stack, plane, count) in enumerate(cases):
        rows, columns = plane.shape
        if rows * columns > MAX_PIXELS:
            left_out.add(
                f"{stack.name}: its slices would have {columns} x {rows} pixels, as its header says "
                f"that a pixel measures {stack.spacing[2]:g} mm: too many",
                left_out.place(stack.first.entry),
            )
            continue
        sound[index] = plane.shape
        slices[plane.shape] += count
    if not sound:
        raise DataError(f"all {len(cases)} cases failed; the first: {left_out.reasons[0]}")
    usual = slices.most_common(1)[0][0]
    fitting = [index for index, shape in sound.items() if shape == usual]
    for index, shape in sound.items():
        if shape != usual:
            stack = cases[index][0]
            ours, most = (f"{columns} x {rows}" for rows, columns in (shape, usual))
            left_out.add(
                f"{stack.name}: its slices have {ours} pixels, those of {cases[fitting[0]][0].name} {most}; "
                "bring all to one size with --size",
                left_out.place(stack.first.entry),
            )
    return fitting


def kept_slices(
    stack: SliceStack, annotation: Annotation, fields: tuple[str, ...], healthy: int | None
) -> tuple[int, ...]:
    """Indices of the slices to keep: all, or those with a finding and `healthy` of the others, drawn by where they lie.

    Doubtful slices are neither.
    The patient does not enter the draw: from the slices drawn from many cases, a name could be found out.
    """
    every = range(len(stack.slices))
    if healthy is None:
        return tuple(every)
    here = f"{len(every)}/{stack.origin}/{stack.spacing}"
    ill = annotation.ill(fields)
    drawn = {index: uniform(split_key(None), f"{here}/{index}") for index in set(every) - ill - annotation.doubtful}
    return tuple(sorted([*ill, *sorted(drawn, key=drawn.__getitem__)[:healthy]]))


def _of_any_depth(stacks: Sequence[SliceStack]) -> set[str]:
    """Modalities without a unit that some of the stacks hold in more than 8 bits: each case has a scale of its own."""
    return {stack.first.modality for stack in stacks if stack.first.kind == "other" and not stack.first.capture} - {""}


def _kind(stack: SliceStack, deep: set[str]) -> Kind:
    """How the values of a stack are stored, where the modalities in `deep` have no unit."""
    first = stack.first
    return "other" if first.kind == "byte" and first.modality in deep and not first.capture else first.kind


def _scale(stack: SliceStack, deep: set[str], options: PreprocessOptions, *, colours: bool) -> Scale:
    """What must agree; colour counts beside DICOM, where it is a foreign object: pictures are saved in it by chance."""
    return (
        None if is_relative(options.window) else _kind(stack, deep),
        stack.first.colour if colours else None,
    )


def _described(stack: SliceStack) -> str:
    first = stack.first
    return ", ".join(filter(None, (first.modality, "colour" if first.colour else "", _WORDS[first.kind])))


def _remedy(odd: Sequence[SliceStack], most: Sequence[SliceStack], options: PreprocessOptions) -> str:
    """How the user can choose between the two."""
    remedies = []
    usual, others = ({stack.first.modality for stack in stacks} for stacks in (most, odd))
    captures = _captures([*odd, *most])
    if all(usual) and all(stack.first.modality not in usual or stack in captures for stack in odd):
        choices = (" ".join(f"--series {name}" for name in sorted(names)) for names in (usual, others - usual - {""}))
        remedies.append("choose with " + " or ".join(filter(None, choices)))
    if most[0].first.kind == "hu" and any(stack.first.format == "nifti" and not stack.first.modality for stack in odd):
        remedies.append("say --modality CT if all are CT")
    if any(stack.first.kind != most[0].first.kind for stack in odd) and not is_relative(options.window):
        remedies.append(f"scale each case by itself with --window {PERCENTILES[0]:g}%,{PERCENTILES[1]:g}%")
    if any(stack.first.colour != most[0].first.colour for stack in odd) and options.channels == "auto":
        remedies.append("bring all to one number of channels with --channels 1 or 3")
    return ", or ".join(remedies)
