"""DICOM segmentations (SEG): which frame shows which segment on which slice of which series."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medgen.errors import DataError
from medgen.imaging.masks.sources import Layer, Segment
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.functional_groups import frame_value
from medgen.imaging.reading.series import SliceStack
from medgen.imaging.reading.slices import SliceFacts, Vector3

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

OFF_SLICE = 0.1
"""Of the distance between slices: what lies farther from each of them lies between two."""


@dataclass(frozen=True)
class SegmentFrame:
    """One frame, and what it says about the slice that it belongs to."""

    index: int
    segments: tuple[int, ...]  # their numbers
    source: tuple[str, int | None]  # SOPInstanceUID and frame of the picture it was drawn on; "" if not told
    position: Vector3 | None
    across: Vector3 | None
    down: Vector3 | None


@dataclass(frozen=True)
class Segmentation:
    """A SEG object without its pixels."""

    entry: Entry
    series: frozenset[str]  # SeriesInstanceUIDs it says it belongs to
    reference: str  # FrameOfReferenceUID
    rows: int
    columns: int
    names: dict[int, str]  # of segments, by their numbers
    low: dict[int, float]  # least and greatest value that shows a segment
    high: dict[int, float]
    frames: tuple[SegmentFrame, ...]

    def belongs_to(self, stack: SliceStack) -> bool:
        """Whether the segmentation refers to these slices."""
        return refers_to(stack, {frame.source[0] for frame in self.frames} - {""}, self.series, self.reference)

    def layers(self, stack: SliceStack) -> list[list[Layer]]:
        """The segments over each slice. DataError where the frames do not fit the slices."""
        if (self.rows, self.columns) != (stack.first.rows, stack.first.columns):
            raise DataError(
                f"{self.entry.name}: has {self.columns} x {self.rows} pixels, its image {stack.name} has "
                f"{stack.first.columns} x {stack.first.rows}"
            )
        found: list[list[Layer]] = [[] for _ in stack.slices]
        for frame in self.frames:
            layers = found[self._slice(frame, stack)]
            for number in frame.segments:
                limits = self.low[number], self.high[number]
                layers.append(Segment(number, self.names[number], self.entry, frame.index, *limits))
        return found

    def _slice(self, frame: SegmentFrame, stack: SliceStack) -> int:
        """The slice at the frame's position or, if either has no position, the slice that the frame refers to."""
        uid, number = frame.source
        named = [
            index
            for index, item in enumerate(stack.slices)
            if uid and item.sop == uid and number in (None, item.frame + 1)
        ]
        if frame.position is None or stack.first.position is None:
            if len(named) == 1:
                return named[0]
            raise DataError(
                f"{self.entry.name}: frame {frame.index + 1} does not state which slice of {stack.name} it belongs to"
            )
        for index in named or range(len(stack.slices)):
            if self._lies_on(frame, stack.slices[index], stack.spacing[0]):
                return index
        if all(_turned(frame, item) for item in stack.slices):
            raise DataError(
                f"{self.entry.name}: the rows and columns of frame {frame.index + 1} run in other directions than "
                f"those of {stack.name}; resample the segmentation onto the series"
            )
        place = ", ".join(f"{value:g}" for value in frame.position)
        raise DataError(f"{self.entry.name}: frame {frame.index + 1}, at {place} mm, lies on no slice of {stack.name}")

    def _lies_on(self, frame: SegmentFrame, item: SliceFacts, gap: float) -> bool:
        if _turned(frame, item):
            return False
        away = np.subtract(frame.position or (), item.position or ())
        across, down = np.array(item.across), np.array(item.down)
        height, width = item.spacing or (1.0, 1.0)
        beside = abs(float(away @ down)) < 0.5 * height and abs(float(away @ across)) < 0.5 * width
        return beside and abs(float(away @ np.cross(across, down))) <= off_slice(gap)


def _turned(frame: SegmentFrame, item: SliceFacts) -> bool:
    """Whether the rows or columns of a frame run in other directions than those of a slice."""
    axes = ((frame.across, item.across), (frame.down, item.down))
    return any(one is not None and not np.allclose(one, other or (), atol=0.01) for one, other in axes)


def refers_to(stack: SliceStack, sops: Set[str], series: Set[str], reference: str) -> bool:
    """Whether an object refers to these slices: by instances if it names any, else by series, else frame of reference.

    A series may hold other stacks too, such as a localizer or other phases.
    """
    if sops:
        return any(item.sop in sops for item in stack.slices)
    return stack.first.series in series if series else bool(reference) and reference == stack.first.reference


def off_slice(gap: float) -> float:
    """How far from a slice something may lie, in mm, to be on it, where the slices are `gap` apart."""
    return max(0.1, OFF_SLICE * gap)


def scan_segmentation(entry: Entry, dataset: Dataset) -> Segmentation:
    """What a SEG object says, from its header. DataError if it names no segments, or not those of its frames."""
    items = dataset.get("SegmentSequence") or ()
    names = {int(item.SegmentNumber): plain_name(item.get("SegmentLabel"), int(item.SegmentNumber)) for item in items}
    if not names:
        raise DataError(f"{entry.name}: a segmentation without segments")
    if len(set(names.values())) < len(names):
        raise DataError(f"{entry.name}: several of its segments have the same name; give each its own")
    kind = str(dataset.get("SegmentationType") or "BINARY")
    high = dict.fromkeys(names, math.inf)
    low = dict.fromkeys(names, 0.5)
    if kind == "FRACTIONAL":
        low = dict.fromkeys(names, 0.5 * float(dataset.get("MaximumFractionalValue") or 255))
    elif kind == "LABELMAP":
        low = high = {number: float(number) for number in names}
    count = int(dataset.get("NumberOfFrames") or 1)
    frames = []
    for index in range(count):
        told = frame_value(dataset, index, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
        if kind == "LABELMAP":
            numbers = tuple(number for number in sorted(names) if number)
        elif told is None or int(told) not in names:
            raise DataError(f"{entry.name}: frame {index + 1} shows a segment that is not described")
        else:
            numbers = (int(told),)
        frames.append(_frame(dataset, index, numbers))
    series = [str(item.get("SeriesInstanceUID") or "") for item in dataset.get("ReferencedSeriesSequence") or ()]
    return Segmentation(
        entry,
        frozenset(series) - {""},
        str(dataset.get("FrameOfReferenceUID") or ""),
        int(dataset.Rows),
        int(dataset.Columns),
        {number: name for number, name in names.items() if number or kind != "LABELMAP"},
        low,
        high,
        tuple(frames),
    )


def _frame(dataset: Dataset, index: int, numbers: tuple[int, ...]) -> SegmentFrame:
    sources = list(frame_value(dataset, index, "DerivationImageSequence", "SourceImageSequence") or [])
    uid, number = "", None
    if len(sources) == 1:  # of several, none is its slice
        uid = str(sources[0].get("ReferencedSOPInstanceUID") or "")
        told = sources[0].get("ReferencedFrameNumber")
        number = int(told) if isinstance(told, int | str) else None
    position = _vectors(frame_value(dataset, index, "PlanePositionSequence", "ImagePositionPatient"), 1)
    axes = _vectors(frame_value(dataset, index, "PlaneOrientationSequence", "ImageOrientationPatient"), 2)
    return SegmentFrame(
        index,
        numbers,
        (uid, number),
        position[0] if position else None,
        axes[0] if axes else None,
        axes[-1] if axes else None,
    )


def _vectors(values: Sequence[float] | None, count: int) -> list[Vector3]:
    """`count` vectors of three numbers each; none where that is not what was told."""
    numbers = list(map(float, values or ()))
    if len(numbers) != 3 * count:
        return []
    return [(numbers[at], numbers[at + 1], numbers[at + 2]) for at in range(0, 3 * count, 3)]


def plain_name(told: object, number: int) -> str:
    """The name of a class as a command line can repeat it; its number where it has none."""
    return " ".join(str(told or "").replace(",", " ").replace("=", " ").split()) or str(number)
