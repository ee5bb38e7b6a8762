"""Masks that samples are asked to show, from files or a set, in the model's classes and at its size."""

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

from medgen.artifacts.label_maps import BINARY, mask_names, told
from medgen.artifacts.schema import Array
from medgen.artifacts.stored import StoredSet
from medgen.config import plain
from medgen.errors import DataError
from medgen.imaging.geometry import PlaneMap, plan_plane
from medgen.imaging.labels.rows import read_rows
from medgen.imaging.masks.classes import Declared, MaskClasses, declared
from medgen.imaging.masks.finding import without_masks
from medgen.imaging.masks.matching import scan_drawn
from medgen.imaging.masks.sources import PictureMask, SurveyTask, label_map, survey
from medgen.imaging.masks.warping import Warp, WarpRange, draw, warp_within
from medgen.imaging.reading import formats
from medgen.imaging.reading.archive import enumerate_sources
from medgen.imaging.reading.faults import NoPicture
from medgen.imaging.reading.raster import is_jpeg
from medgen.inference.conditions.vectors import MASK_COLUMN

LabelMap = npt.NDArray[np.uint8]
"""(H, W), numbers of classes."""
Plane = npt.NDArray[np.bool_]
FULL = 255
"""What stands for the class of a mask of one class in most files, where it is not 1."""
DARK_EDGE, DARK = 0.1, 0.03
"""Shares of the range of an image's values: how dark an edge is that shows nothing, and how far that scatters."""
SHOWN = 0.25
"""Least share of an image that its foreground takes up."""
NOWHERE = -1
"""What stands for a class that the masks do not hold."""


@dataclass(frozen=True)
class ModelMasks:
    """The masks that a model takes."""

    names: tuple[str, ...]
    """Of its classes; the background is the first."""
    size: tuple[int, int]
    """Height and width in pixels."""
    keep_aspect: bool = True
    """Whether `preprocess` padded the training images to this size; else it stretched them."""

    def called(self, theirs: Sequence[str]) -> tuple[str, ...]:
        """Other masks' classes under the model's names; two single classes match if either has no name."""
        alone = len(theirs) == len(self.names) == len(BINARY)
        return self.names if alone and BINARY in (tuple(theirs), self.names) else tuple(theirs)

    def fitted(self, labels: LabelMap) -> LabelMap:
        """The map at the model's size, by nearest neighbour, as `preprocess` fitted the training images."""
        return self._plan(labels.shape).labels(labels)

    def how(self, shape: tuple[int, int]) -> str:
        """How a mask of shape (H, W) is fitted, for messages; "" if it fits as it is."""
        plan = self._plan(shape)
        if plan.identity:
            return ""
        (rows, columns), (height, width) = shape, self.size
        padded = (plan.y.count, plan.x.count) != self.size
        end = f", and padded with background to {width} x {height}" if padded else ""
        inner = f"{plan.x.count} x {plan.y.count}"
        return f"of {columns} x {rows} pixels are resized to {inner} by nearest neighbour{end}"

    def _plan(self, shape: tuple[int, ...]) -> PlaneMap:
        rows, columns = shape
        keep = self.keep_aspect
        return plan_plane((rows, columns), (1.0, 1.0), size=self.size, keep_aspect=keep, spacing=None)


@dataclass(frozen=True)
class MaskOrigin:
    """The source of a label map, which is read again each time so that many of them do not fill the memory."""

    name: str
    read: Callable[[], LabelMap]
    smeared: bool = False
    """Whether it is a JPEG, whose values are thresholded at half the scale."""
    foreground: Callable[[], Plane | None] = lambda: None
    """Where the image that the mask was drawn on shows something, (H, W); None where that is unknown."""


@dataclass(frozen=True)
class Augmentation:
    """Warps given masks into new ones; the warp of sample i depends on the seed and i alone."""

    limits: WarpRange
    seed: int


@dataclass(frozen=True)
class AskedMasks:
    """Label maps (H, W) in the model's classes and size, one per sample."""

    origins: Sequence[MaskOrigin]
    wanted: ModelMasks
    order: Sequence[int]
    """The origin of each sample's mask."""
    digest: str = ""
    """Of the label maps of all origins."""
    augmentation: Augmentation | None = None
    warps: dict[int, Warp] = field(default_factory=dict)
    """How the samples' masks were warped, for those read so far."""
    unchanged: set[int] = field(default_factory=set)
    """Samples whose masks nonetheless stayed as given."""

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> LabelMap:
        origin = self.origins[self.order[index]]
        labels = self.wanted.fitted(origin.read())
        if self.augmentation is None:
            return labels
        ground = origin.foreground()
        if ground is not None:
            ground = self.wanted.fitted(ground.astype(np.uint8)).astype(bool)
        drawn = draw(self.augmentation.limits, self.augmentation.seed, index)
        result, self.warps[index] = warp_within(labels, drawn, ground)
        if np.array_equal(result, labels):
            self.unchanged.add(index)
        return result

    def described(self) -> dict[str, Any]:
        """For the provenance: a digest of the masks given, and how far they are warped."""
        digest = hashlib.sha256(f"{self.digest} {list(self.order)}".encode()).hexdigest()[:16]
        return {"digest": digest} | ({} if self.augmentation is None else {"warp": plain(self.augmentation.limits)})


@dataclass
class Inspection:
    """What one pass over all masks found, for messages."""

    resized: Counter[tuple[int, int]]
    vanished: Counter[str]
    empty: int = 0
    smeared: int = 0
    digest: str = ""
    """Of the label maps at the model's size."""


def inspect(origins: Sequence[MaskOrigin], wanted: ModelMasks) -> Inspection:
    """Read every mask once. DataError names one that cannot be read."""
    found, digest = Inspection(Counter(), Counter()), hashlib.sha256()
    for origin in origins:
        before = origin.read()
        after = wanted.fitted(before)
        if before.shape != after.shape:
            found.resized[before.shape[0], before.shape[1]] += 1
            lost = set(np.unique(before).tolist()) - set(np.unique(after).tolist())
            found.vanished.update(wanted.names[number] for number in lost)
        found.empty += not after.any()
        found.smeared += origin.smeared
        digest.update(after.tobytes())
    found.digest = digest.hexdigest()
    return found


def messages(found: Inspection, wanted: ModelMasks) -> tuple[list[str], list[str]]:
    """Messages and warnings from an inspection."""
    said = [f"{count} masks {wanted.how(shape)}" for shape, count in sorted(found.resized.items())]
    if found.smeared:
        said.append(f"{found.smeared} masks are JPEG, which alters values: they are thresholded half-way")
    if found.empty:
        said.append(f"{found.empty} masks are empty: they ask for images of background alone")
    warned = [f"'{name}' vanishes from {count} masks at the model's size" for name, count in found.vanished.items()]
    return said, warned


def masks_in_files(place: Path, wanted: ModelMasks) -> list[MaskOrigin]:
    """The label maps of a file, a folder or a ZIP, by name; each slice of a volume is one.

    Where name or folder marks some as masks (`a_mask.png` beside `a.png`), the others are images and are skipped.
    Values are those named by a file of classes beside the masks, or else the numbers of the model's classes, and 255
    if there is only one beside the background. DataError names the file with another value.
    """
    pictures: list[PictureMask] = []
    entries = enumerate_sources([str(place)]).entries
    images = without_masks(entries, [str(place)])
    for entry in [entry for entry in entries if entry not in images] or entries:
        if scan_drawn(entry) is not None:
            raise DataError(
                f"{entry.name}: belongs to a DICOM series and means nothing without it; preprocess the series with "
                "--masks, and give the set with --like"
            )
        try:
            facts = formats.scan(entry, "")
        except NoPicture:
            if place.is_file():
                raise
            continue
        pictures += [PictureMask(entry, one.format, one.frame, is_jpeg(entry)) for one in facts]
    if not pictures:
        raise DataError(f"{place}: holds no masks")
    said = declared("", str(place))
    return [_of_picture(picture, said, wanted) for picture in pictures]


def _of_picture(picture: PictureMask, said: Declared | None, wanted: ModelMasks) -> MaskOrigin:
    """The mask in a file. DataError for a value that is not a class of the model."""
    name, names = picture.entry.name, wanted.names
    seen = survey(SurveyTask((picture,)))
    if picture.smeared and len(names) != 2:
        raise DataError(f"{name}: JPEG compression has altered the numbers of {len(names)} classes; save masks as PNG")
    numbers = dict(enumerate(names))
    if said is not None:
        values = [(one, value) for one, value in said.values.items() if value is not None]
        numbers = dict(zip([value for _, value in values], wanted.called([one for one, _ in values]), strict=True))
    elif len(names) == 2 and (picture.smeared or FULL in seen.values):
        numbers = {0: names[0], FULL: names[1]}
    for value in seen.values:
        if numbers.get(value) not in names:
            told_as = f" ('{numbers[value]}')" if value in numbers else ""
            raise DataError(f"{name}: holds {value}{told_as}, which is not a class of the model; {told(names)}")
    of = {one: value for value, one in numbers.items()}
    level = FULL / 2 if seen.peak > FULL / 2 else seen.peak / 2
    classes = MaskClasses(names, tuple(of.get(one, NOWHERE) for one in names), level)
    return MaskOrigin(name, partial(label_map, picture, classes), picture.smeared)


def masks_in_csv(file: Path, wanted: ModelMasks) -> list[MaskOrigin]:
    """The label map that each row of a CSV file names in its column `mask`, by a path relative to the file."""
    origins = []
    read = read_rows(file)
    if MASK_COLUMN not in read.columns:
        raise DataError(f"{file}: has no column '{MASK_COLUMN}', and the model generates images from masks; add one")
    for number, row in read.rows:
        name = row[MASK_COLUMN]
        place = file.parent / name
        if not name or not place.is_file():
            raise DataError(f"{file}, row {number}: names no mask file ('{name}')")
        found = masks_in_files(place, wanted)
        if len(found) != 1:
            raise DataError(f"{file}, row {number}: {name} holds {len(found)} masks, and a sample has one")
        origins += found
    return origins


def masks_of_set(stored: StoredSet, slices: Sequence[int], wanted: ModelMasks, name: str) -> list[MaskOrigin]:
    """The label maps of slices of a set, with classes matched to the model's by name.

    DataError if the set has no masks and, when a mask is read, for a class that the model does not know.
    """
    if not stored.has("mask"):
        raise DataError(f"{name}: has no masks; use a set that was preprocessed with --masks")
    theirs = wanted.called(mask_names(stored.header))
    known = {number: wanted.names.index(one) for number, one in enumerate(theirs) if one in wanted.names}

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

    def ground(index: int) -> Plane | None:
        return foreground_of(stored.read("image", [index])[0]) if stored.has("image") else None

    return [
        MaskOrigin(f"{name}, slice {index}", partial(read, index), foreground=partial(ground, index))
        for index in slices
    ]


def foreground_of(image: Array) -> Plane | None:
    """The foreground (H, W) of an image (C, H, W): all but the pixels connected to its edge that are as dark.

    None if the edge is not dark, or most of the image would be left out: foreground and background then look alike.
    """
    values = image.max(0).astype(np.float64)
    low, span = values.min(), np.ptp(values)
    level = np.median(_edge(values))
    if level > low + DARK_EDGE * span:
        return None
    dark, _ = ndimage.label(values <= level + DARK * span)
    at_edge = np.unique(_edge(dark))
    ground: Plane = ~np.isin(dark, at_edge[at_edge > 0])
    return ground if ground.mean() >= SHOWN else None


def _edge(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The outermost pixels of a plane (H, W)."""
    return np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
