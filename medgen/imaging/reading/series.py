"""Group loose slices into stacks: one series and one orientation each, ordered along the normal, checked for gaps."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from medgen.artifacts.stacks import SAME_PLACE
from medgen.errors import MedgenError
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.slices import SliceFacts, Vector3

SAME_AXES = 0.005  # direction cosines and pixel sizes that differ less are the same
TILT_DEGREES = 0.5  # below it, rounding in the header explains the shift
GAP_TOLERANCE = 0.05  # of the usual distance, and at least 0.1 mm


@dataclass
class SliceStack:
    """The slices of one case, ordered along the normal.

    `spacing` is (z, y, x) in mm; `flaws` maps kinds of flaws in the geometry, which rule out resampling along z, to
    sentences.
    """

    key: str  # its name among the stacks of its sources: unique, and must never be written to an output
    slices: list[SliceFacts]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    measured: bool = False  # whether the in-plane spacing is known
    offsets: list[float] = field(default_factory=list)  # mm along the normal, from the first slice
    flaws: dict[str, str] = field(default_factory=dict)

    @property
    def first(self) -> SliceFacts:
        """The slice at the lowest position along the normal."""
        return self.slices[0]

    @property
    def name(self) -> str:
        """The name shown to the user: its first file."""
        return self.first.entry.name

    @property
    def patient(self) -> str:
        """The patient's identity, or "" where the file does not say."""
        return self.first.patient

    @property
    def thickness(self) -> float:
        """The extent that a slice averages over, mm; 0 if the slices do not say, or do not agree."""
        told = {item.thickness or 0.0 for item in self.slices}
        return min(told) if max(told) - min(told) <= 0.01 * max(told) else 0.0

    @property
    def origin(self) -> Vector3:
        """Centre of the first voxel, LPS mm."""
        return self.first.position or (0.0, 0.0, 0.0)

    @property
    def places(self) -> npt.NDArray[np.float64]:
        """(D, 3) centre of the first voxel of each slice, LPS mm."""
        if self.first.position is None:
            return np.outer(self.offsets, self.direction[:3])
        return np.array([item.position for item in self.slices])

    @property
    def direction(self) -> tuple[float, ...]:
        """Unit vectors of the z, y and x axes, LPS."""
        if self.first.across is None or self.first.down is None:
            return (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
        return (*normal(self.first), *self.first.down, *self.first.across)


def normal(facts: SliceFacts) -> Vector3:
    """The unit vector from one slice to the next: along a row x along a column."""
    a, b = facts.across or (1.0, 0.0, 0.0), facts.down or (0.0, 1.0, 0.0)
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def build_stacks(slices: Iterable[SliceFacts]) -> tuple[list[SliceStack], list[str]]:
    """Group by series, patient, orientation, size and, where positions repeat, echo or time; order and check each.

    Stacks are in the order of their first files. A file without a position is a stack of its own. Also returns the
    names of files that are skipped because they are exact copies of others.
    """
    layers, copies = _without_copies(slices)
    stacks = [stack for layer in layers for stack in _separate(layer)]
    return _uniquely_named(stacks), copies


def _separate(slices: Iterable[SliceFacts]) -> list[SliceStack]:
    """Stacks from slices in which no instance occurs twice."""
    series: dict[tuple[object, ...], list[list[SliceFacts]]] = {}
    for item in slices:
        alone = item.position is None or not item.series
        where = (item.entry.source, item.entry.within) if alone else (item.series, item.patient)
        groups = series.setdefault(where, [])
        group = next((group for group in groups if _alike(group[0], item)), None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    stacks = []
    for groups in series.values():
        parts = [part for group in groups for part in _unmix(group)]
        for part in parts:
            name = _name(part[0])
            stacks.append(_ordered(name if len(parts) == 1 else f"{name}/{_distinction(part[0])}", part))
    return stacks


def _uniquely_named(stacks: list[SliceStack]) -> list[SliceStack]:
    """Number the stacks that have the same name, such as equally named files of two sources."""
    seen: dict[str, int] = defaultdict(int)
    for stack in stacks:
        seen[stack.key] += 1
        if seen[stack.key] > 1:
            stack.key += f"#{seen[stack.key]}"
    return stacks


def _alike(one: SliceFacts, other: SliceFacts) -> bool:
    """Whether two slices of a series can lie in one stack."""
    if _layout(one) != _layout(other) or (one.position is None) != (other.position is None):
        return False
    pairs = ((one.across, other.across), (one.down, other.down), (one.spacing, other.spacing))
    return all(np.allclose(a or (), b or (), atol=SAME_AXES) for a, b in pairs if (a is None) == (b is None))


def _layout(item: SliceFacts) -> tuple[object, ...]:
    what = item.colour, item.kind, item.modality, item.synthetic
    return (item.rows, item.columns, *what, item.spacing is None, item.aspect)


def _name(first: SliceFacts) -> str:
    """What a stack is named after: its series; its instance if it has no position; else its file."""
    if not first.series:
        return first.entry.within
    return first.series if first.position is not None else f"{first.series}/{first.sop}"


def _distinction(first: SliceFacts) -> str:
    """What distinguishes a stack from the others of its series; it does not change when data is added."""
    axes = [round(value, 1) + 0.0 for value in (*(first.across or ()), *(first.down or ()))]
    return "/".join(map(str, (*_layout(first), *axes, *first.phase)))


def _unmix(group: list[SliceFacts]) -> list[list[SliceFacts]]:
    """Split a group whose positions repeat by the first attribute that makes them unique in each part, else by several.

    An attribute that differs from slice to slice, such as the time of each, would make every slice a stack of its own
    where one position occurs twice. So each part must repeat a position of another, and there must not be more than
    twice as many parts as slices at one position.
    """
    if group[0].position is None:
        return [group]
    levels = _levels(group)
    slices_at = Counter(levels)
    most = 2 * max(slices_at.values())

    def parts(attributes: Sequence[int]) -> list[list[int]]:
        """Indices of the slices that agree in these."""
        found: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, item in enumerate(group):
            found[tuple(item.phase[at] for at in attributes if at < len(item.phase))].append(index)
        return list(found.values())

    def whole(part: Sequence[int]) -> bool:
        its = [levels[index] for index in part]
        return len(set(its)) == len(its) and any(slices_at[level] > 1 for level in its)

    choices: list[tuple[int, ...]] = [(one,) for one in range(len(group[0].phase))]
    together: tuple[int, ...] = ()
    for one in range(len(group[0].phase)):
        if len(parts(together)) < len(parts((*together, one))) <= most:
            together = (*together, one)
            choices.append(together)
    for attributes in choices:
        found = parts(attributes)
        if 1 < len(found) <= most and all(map(whole, found)):
            return [[group[index] for index in part] for part in found]
    return [group]


def _levels(group: Sequence[SliceFacts]) -> list[int]:
    """A number for the position of each slice along the normal, the same for slices at the same position."""
    heights = [_height(item, group[0]) for item in group]
    order = sorted(range(len(group)), key=heights.__getitem__)
    levels = [0] * len(group)
    for before, index in pairwise(order):
        levels[index] = levels[before] + (heights[index] - heights[before] > 1e-3)
    return levels


def _without_copies(slices: Iterable[SliceFacts]) -> tuple[list[list[SliceFacts]], list[str]]:
    """Layers in which each instance occurs once, and the names of files that are byte for byte copies of others.

    Files of one instance that differ (written in another transfer syntax, or truncated) go to separate layers. What
    lies at another position is another instance, whatever UID was copied into its file.
    """
    layers: list[list[SliceFacts]] = [[]]
    seen: dict[tuple[object, ...], list[SliceFacts]] = defaultdict(list)
    copies: dict[str, None] = {}
    for item in slices:
        before = seen[item.sop or item.entry.name, item.frame, item.position]
        if any(_same_file(item.entry, other.entry) for other in before):
            copies[item.entry.name] = None
            continue
        if len(before) == len(layers):
            layers.append([])
        layers[len(before)].append(item)
        before.append(item)
    return layers, list(copies)


def _same_file(one: Entry, other: Entry) -> bool:
    """Whether both hold the same bytes; False if one is damaged, which is reported when its pixels are read."""
    try:
        return one.size == other.size and one.read() == other.read()
    except MedgenError:
        return False


def _height(item: SliceFacts, reference: SliceFacts) -> float:
    """Position along the normal of `reference`, mm."""
    return sum(p * n for p, n in zip(item.position or (0.0, 0.0, 0.0), normal(reference), strict=True))


def _ordered(key: str, part: list[SliceFacts]) -> SliceStack:
    first = part[0]
    depth = first.step or first.thickness or 1.0
    plane = first.spacing or (first.aspect, 1.0)
    if first.position is None:
        part = sorted(part, key=lambda item: item.frame)
        stack = SliceStack(key, part, (depth, *plane), first.spacing is not None, [i * depth for i in range(len(part))])
        if len(part) > 1:
            stack.flaws["no positions"] = "its frames have no position in space"
        return stack
    part = sorted(part, key=lambda item: (_height(item, first), item.entry.source, item.entry.within, item.frame))
    offsets = [_height(item, part[0]) - _height(part[0], part[0]) for item in part]
    stack = SliceStack(key, part, (depth, *plane), first.spacing is not None, offsets)
    if len(part) > 1:
        gaps = np.diff(offsets)
        usual = float(np.median(gaps[gaps > 1e-3])) if (gaps > 1e-3).any() else depth
        stack.flaws |= _repeats(part, gaps) | _uneven(part, gaps, usual) | _tilt(part)
        # With rounded positions, errors of the usual gap add up; the mean gap leads from the first slice to the last.
        drift = abs(offsets[-1] - usual * (len(part) - 1))
        mean = not {"shared positions", "uneven gaps"} & set(stack.flaws) and drift > SAME_PLACE
        stack.spacing = (offsets[-1] / (len(part) - 1) if mean else usual, *plane)
    return stack


def _repeats(part: Sequence[SliceFacts], gaps: np.ndarray[tuple[int], np.dtype[np.float64]]) -> dict[str, str]:
    where = np.flatnonzero(gaps <= 1e-3)
    if not len(where):
        return {}
    pair = part[where[0]], part[where[0] + 1]
    names = f"{pair[0].entry.name} and {pair[1].entry.name}"
    many = f"{len(where) + 1} slices share a position with another, first {names}"
    return {"shared positions": many if len(where) > 1 else f"{names} share a position"}


def _uneven(
    part: Sequence[SliceFacts], gaps: np.ndarray[tuple[int], np.dtype[np.float64]], usual: float
) -> dict[str, str]:
    odd = np.flatnonzero((np.abs(gaps - usual) > max(0.1, GAP_TOLERANCE * usual)) & (gaps > 1e-3))
    if not len(odd):
        return {}
    at = int(odd[0])
    return {
        "uneven gaps": f"uneven gaps: {gaps[at]:.4g} mm between slices {at} and {at + 1} ({part[at].entry.name}), "
        f"usually {usual:.4g} mm" + (f", and {len(odd) - 1} more" if len(odd) > 1 else "")
    }


def _tilt(part: Sequence[SliceFacts]) -> dict[str, str]:
    start, end = part[0].position, part[-1].position
    if start is None or end is None:
        return {}
    step = np.subtract(end, start)
    along = float(step @ np.array(normal(part[0])))
    aside = math.sqrt(max(0.0, float(step @ step) - along * along))
    angle = math.degrees(math.atan2(aside, abs(along)))
    pixel = min(part[0].spacing or (1.0, 1.0))
    if angle < TILT_DEGREES or aside < 0.5 * pixel:
        return {}
    return {"gantry tilt": f"gantry tilt of {angle:.1f} degrees: each slice is shifted against the one before"}
