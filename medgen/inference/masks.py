"""Masks that samples are asked to show, from files or from a set, as the model wants them: its classes, at its size."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.artifacts.label_maps import mask_names, told
from medgen.artifacts.stored import StoredSet
from medgen.config import plain
from medgen.errors import DataError
from medgen.imaging.labels.rows import read_rows
from medgen.imaging.masks.warping import Warp, WarpRange, draw, warp_within
from medgen.imaging.reading import formats
from medgen.imaging.reading.archive import Entry, enumerate_sources
from medgen.imaging.reading.faults import NoPicture
from medgen.imaging.reading.slices import Format
from medgen.inference.conditions import MASK_COLUMN

LabelMap = npt.NDArray[np.uint8]
"""(H, W), numbers of classes."""
Plane = npt.NDArray[np.bool_]
FULL = 255
"""What stands for the class of a mask of one class in most files, where it is not 1."""
JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Wanted:
    """The masks that a model takes."""

    names: tuple[str, ...]
    """Of its classes; the background is the first."""
    size: tuple[int, int]
    """Height and width in pixels."""

    def fitted(self, labels: LabelMap, name: str) -> LabelMap:
        """The map at the model's size, by nearest neighbour; DataError if it has another aspect. `name` is its file."""
        (height, width), (rows, columns) = self.size, labels.shape
        if labels.shape == self.size:
            return labels
        if abs(rows * width - columns * height) > max(height, width):
            raise DataError(
                f"{name}: is a mask of {columns} x {rows} pixels, and the model makes images of {width} x {height}; "
                "crop or pad it to that aspect"
            )
        down = ((np.arange(height) + 0.5) * rows / height).astype(np.intp)
        across = ((np.arange(width) + 0.5) * columns / width).astype(np.intp)
        result: LabelMap = labels[np.ix_(down, across)]
        return result


@dataclass(frozen=True)
class Source:
    """A label map where it lies: read anew each time, so that no number of them fills the memory."""

    name: str
    read: Callable[[], LabelMap]
    smeared: bool = False
    """Whether it is a JPEG, whose values are cut at half of the scale."""
    foreground: Callable[[], Plane] | None = None
    """Where the image that the mask was drawn on shows something, (H, W)."""


@dataclass(frozen=True)
class Augmentation:
    """New masks from those given: the warp of sample i is drawn from the seed and i alone."""

    limits: WarpRange
    seed: int


@dataclass(frozen=True)
class Masks:
    """Label maps (H, W) of the model's classes and size, one a sample."""

    sources: Sequence[Source]
    wanted: Wanted
    order: Sequence[int]
    """Of each sample, its source."""
    augmentation: Augmentation | None = None
    warps: dict[int, Warp] = field(default_factory=dict)
    """How the masks of samples were warped, as far as they were read."""

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> LabelMap:
        source = self.sources[self.order[index]]
        labels = self.wanted.fitted(source.read(), source.name)
        if self.augmentation is None:
            return labels
        ground = None
        if source.foreground is not None:
            ground = self.wanted.fitted(source.foreground().astype(np.uint8), source.name).astype(bool)
        drawn = draw(self.augmentation.limits, self.augmentation.seed, index)
        labels, self.warps[index] = warp_within(labels, drawn, ground)
        return labels

    def described(self) -> dict[str, Any]:
        """For the provenance: a digest of the masks given, and how far they are warped."""
        digest = hashlib.sha256(str(list(self.order)).encode())
        for source in self.sources:
            digest.update(self.wanted.fitted(source.read(), source.name).tobytes())
        warping = {} if self.augmentation is None else {"warp": plain(self.augmentation.limits)}
        return {"digest": digest.hexdigest()[:16], **warping}


@dataclass
class Survey:
    """What was found while all masks were looked at once, for people."""

    resized: Counter[tuple[int, int]]
    vanished: Counter[str]
    empty: int = 0
    smeared: int = 0


def survey(sources: Sequence[Source], wanted: Wanted) -> Survey:
    """Look at every mask. DataError names the one that the model cannot take."""
    found = Survey(Counter(), Counter())
    for source in sources:
        before = source.read()
        after = wanted.fitted(before, source.name)
        if before.shape != after.shape:
            found.resized[before.shape[0], before.shape[1]] += 1
            lost = set(np.unique(before).tolist()) - set(np.unique(after).tolist())
            found.vanished.update(wanted.names[number] for number in lost)
        found.empty += not after.any()
        found.smeared += source.smeared
    return found


def messages(found: Survey, wanted: Wanted) -> tuple[list[str], list[str]]:
    """What a survey tells, and what it warns of."""
    height, width = wanted.size
    said = [
        f"{count} masks of {columns} x {rows} pixels are resized to {width} x {height} by nearest neighbour"
        for (rows, columns), count in sorted(found.resized.items())
    ]
    if found.smeared:
        said.append(f"{found.smeared} masks are JPEG, which smears values: they are cut at {FULL / 2:g}")
    if found.empty:
        said.append(f"{found.empty} masks are empty: they ask for images of background alone")
    warned = [f"'{name}' vanishes from {count} masks at the model's size" for name, count in found.vanished.items()]
    return said, warned


def masks_in_files(place: Path, wanted: Wanted) -> list[Source]:
    """The label maps of a file, a folder or a ZIP, by name; each slice of a volume is one.

    Their values are the numbers of classes; with one class beside the background, 255 stands for it too.
    DataError names the file with another value.
    """
    frames = []
    for entry in enumerate_sources([str(place)]).entries:
        try:
            facts = formats.scan(entry, "")
        except NoPicture:
            if place.is_file():
                raise
            continue
        frames += [_Frame(entry, one.format, one.frame, len(facts) > 1) for one in facts]
    if not frames:
        raise DataError(f"{place}: holds no masks")
    return [Source(frame.name, partial(frame.labels, wanted.names), frame.smeared) for frame in frames]


def masks_in_csv(file: Path, wanted: Wanted) -> list[Source]:
    """The label map that each row of a CSV file names in its column `mask`, by a path from where the file lies."""
    sources = []
    read = read_rows(file)
    if MASK_COLUMN not in read.columns:
        raise DataError(f"{file}: has no column '{MASK_COLUMN}', and the model draws what a mask shows; add one")
    for number, row in read.rows:
        name = row[MASK_COLUMN]
        place = file.parent / name
        if not name or not place.is_file():
            raise DataError(f"{file}, row {number}: names no mask file ('{name}')")
        found = masks_in_files(place, wanted)
        if len(found) != 1:
            raise DataError(f"{file}, row {number}: {name} holds {len(found)} masks, and a sample has one")
        sources += found
    return sources


@dataclass(frozen=True)
class _Frame:
    """A slice of a file."""

    entry: Entry
    format: Format
    frame: int
    several: bool

    @property
    def name(self) -> str:
        return f"{self.entry.name}, slice {self.frame}" if self.several else self.entry.name

    @property
    def smeared(self) -> bool:
        return self.entry.head(len(JPEG)) == JPEG

    def labels(self, names: Sequence[str]) -> LabelMap:
        """Numbers of classes (H, W)."""
        values = formats.read(self.entry, self.format, (self.frame,), hu=False)[0].max(axis=2)
        if self.smeared:
            if len(names) != 2:
                raise DataError(f"{self.name}: JPEG has smeared the numbers of {len(names)} classes; save masks as PNG")
            values = (values > FULL / 2).astype(np.float32)
        numbers = np.rint(values).astype(np.int64)
        if len(names) == 2:
            numbers[numbers == FULL] = 1
        unknown = np.unique(numbers[(numbers < 0) | (numbers >= len(names))]).tolist()
        if unknown:
            raise DataError(f"{self.name}: holds {unknown[0]}, which is no class of the model; {told(names)}")
        labels: LabelMap = numbers.astype(np.uint8)
        return labels


def masks_of_set(stored: StoredSet, slices: Sequence[int], wanted: Wanted, name: str) -> list[Source]:
    """The label maps of slices of a set, whose classes are those of the model by name.

    DataError if the set has no masks, and, when it is read, for one with a class that the model does not know.
    """
    if not stored.has("mask"):
        raise DataError(f"{name}: has no masks; take a set that was preprocessed with --masks")
    theirs = mask_names(stored.header)
    nameless = not stored.header.mask_names and len(wanted.names) == 2
    known: dict[int, int] = {}
    for number, one in enumerate(theirs):
        if nameless or one in wanted.names:
            known[number] = number if nameless else wanted.names.index(one)

    def read(index: int) -> LabelMap:
        labels = stored.read("mask", [index])[0, 0]
        held = np.unique(labels).tolist()
        unknown = [theirs[number] if number < len(theirs) else str(number) for number in held if number not in known]
        if unknown:
            raise DataError(
                f"{name}, slice {index}: its mask holds '{unknown[0]}', a class that the model does not know; "
                f"{told(wanted.names)}"
            )
        table = np.zeros(256, np.uint8)
        for number, ours in known.items():
            table[number] = ours
        result: LabelMap = table[labels]
        return result

    ground = partial(foreground_of, stored) if stored.has("image") else None
    return [
        Source(f"{name}, slice {index}", partial(read, index), foreground=ground and partial(ground, index))
        for index in slices
    ]


def foreground_of(stored: StoredSet, index: int) -> Plane:
    """Where slice `index` of a set of images shows something, (H, W): all but a border of its darkest value."""
    image = stored.read("image", [index])[0]  # (C, H, W)
    dark = (image == image.min()).all(0)
    outside, _ = ndimage.label(dark)
    at_edge = np.unique(np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]]))
    ground: Plane = ~np.isin(outside, at_edge[at_edge > 0])
    return ground
