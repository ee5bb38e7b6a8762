"""The mask of a slice as files hold it: values in a picture, or named layers of segments and outlines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from medgen.errors import DataError
from medgen.imaging.masks.classes import MaskClasses
from medgen.imaging.reading import formats
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.faults import failing_as
from medgen.imaging.reading.slices import Format

Plane = npt.NDArray[np.bool_]
_WHOLE = 1e-3  # numbers nearer to an integer are that integer, which floating-point label volumes may miss


@dataclass(frozen=True)
class PictureMask:
    """A frame of a file whose values are classes; `smeared` if its compression changes values, as that of JPEG does."""

    entry: Entry
    format: Format
    frame: int
    smeared: bool = False


@dataclass(frozen=True)
class Segment:
    """A frame of a DICOM segmentation: where its values lie in [low, high]."""

    number: int
    name: str
    entry: Entry
    frame: int
    low: float
    high: float


@dataclass(frozen=True)
class Contour:
    """Where a point is inside an odd number of closed polygons of (row, column), pixel centres at whole numbers."""

    number: int
    name: str
    entry: Entry
    polygons: tuple[npt.NDArray[np.float64], ...]


Layer = Segment | Contour


@dataclass(frozen=True)
class LayeredMask:
    """Named layers (H, W) over one slice; `entry` is the file that draws them, or the first of several."""

    entry: Entry
    layers: tuple[Layer, ...]
    rows: int
    columns: int


MaskSource = PictureMask | LayeredMask


def layers_of(mask: MaskSource) -> set[tuple[int, str]]:
    """Numbers and names of the layers of a mask."""
    return {(layer.number, layer.name) for layer in mask.layers} if isinstance(mask, LayeredMask) else set()


def skipping(masks: Sequence[MaskSource | None]) -> dict[str, Entry]:
    """Names of layers that lie on three slices or more and on no two neighbours, as if every second one were drawn.

    The value is a file that holds the layer.
    """
    places: dict[str, list[int]] = {}
    files: dict[str, Entry] = {}
    for index, mask in enumerate(masks):
        for layer in mask.layers if isinstance(mask, LayeredMask) else ():
            places.setdefault(layer.name, []).append(index)
            files[layer.name] = layer.entry
    return {
        name: files[name]
        for name, found in places.items()
        if len(found) > 2 and all(after - before > 1 for before, after in pairwise(found))
    }


def files_of(masks: Sequence[MaskSource | None]) -> list[Entry]:
    """The files of some masks, each once."""
    parts = ((mask, *mask.layers) if isinstance(mask, LayeredMask) else (mask,) for mask in masks if mask)
    return list(dict.fromkeys(one.entry for found in parts for one in found))


@dataclass
class Seen:
    """What the masks of a case hold, before the classes are known."""

    values: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of each value of pictures, its pixels, and how many of these lie between a lower and a higher neighbour."""
    peak: float = 0.0  # the highest value of smeared pictures
    layers: Counter[str] = field(default_factory=Counter)  # pixels of each
    overlaps: Counter[tuple[str, str]] = field(default_factory=Counter)  # pixels that two layers share


@dataclass(frozen=True)
class SurveyTask:
    """The masks of a case, to be surveyed."""

    masks: tuple[MaskSource, ...]

    def __str__(self) -> str:
        return self.masks[0].entry.name


def survey(task: SurveyTask) -> Seen:
    """Which values and layers the masks hold. DataError names the file that cannot be read, or is no label map."""
    seen = Seen()
    for mask in task.masks:
        if isinstance(mask, LayeredMask):
            drawn: dict[str, Plane] = {}
            for layer, plane in _drawn(mask):
                drawn[layer.name] = drawn[layer.name] | plane if layer.name in drawn else plane
            for name, plane in drawn.items():
                seen.layers[name] += int(plane.sum())
            for one, other in combinations(drawn, 2):
                if shared := int((drawn[one] & drawn[other]).sum()):
                    seen.overlaps[one, other] += shared
        elif mask.smeared:
            seen.peak = max(seen.peak, float(_picture(mask).max()))
        else:
            _count(seen, _values(mask))
    return seen


def label_map(mask: MaskSource, classes: MaskClasses) -> npt.NDArray[np.uint8]:
    """(H, W) numbers of classes. DataError names the file with a value that is not a class."""
    if isinstance(mask, PictureMask):
        values = _values(mask) if not mask.smeared else classes.restored(_picture(mask))
        return classes.of_values(values, mask.entry.name)
    labels = np.zeros((mask.rows, mask.columns), np.uint8)
    known = [(classes.names.index(layer.name), plane) for layer, plane in _drawn(mask) if layer.name in classes.names]
    for number, plane in sorted(known, key=lambda item: item[0]):
        labels[plane] = number
    return labels


def _count(seen: Seen, values: npt.NDArray[np.int64]) -> None:
    found, counts = _unique(values)
    between: dict[int, int] = {}
    if len(found) > 2:  # two values have no edge between them that could be smooth
        from scipy import ndimage

        rising = ndimage.minimum_filter(values, 3) < values
        rising &= values < ndimage.maximum_filter(values, 3)
        between = dict(zip(*_unique(values[rising]), strict=True))
    for value, count in zip(found, counts, strict=True):
        before = seen.values.get(value, (0, 0))
        seen.values[value] = (before[0] + count, before[1] + between.get(value, 0))


def _unique(values: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """The values that occur, and how often; without sorting where they are small."""
    if values.size and int(values.min()) >= 0 and int(values.max()) < 1 << 16:
        counts = np.bincount(values.reshape(-1))
        found = np.flatnonzero(counts)
        return found.tolist(), counts[found].tolist()
    found, counts = np.unique(values, return_counts=True)
    return found.tolist(), counts.tolist()


def _values(mask: PictureMask) -> npt.NDArray[np.int64]:
    picture = _picture(mask)
    values = np.rint(picture)
    wrong = ~(np.abs(picture - values) <= _WHOLE)  # nor is NaN a class
    if wrong.any():
        raise DataError(
            f"{mask.entry.name}: holds {picture[wrong][0]:g}, which is not a class; masks hold whole numbers, such as "
            "probabilities cut at a threshold"
        )
    return values.astype(np.int64)


def _picture(mask: PictureMask) -> npt.NDArray[np.float32]:
    """(H, W) values of a grey picture, or the indices of one with a palette of colours."""
    values = _pictures(mask.entry, mask.format)[mask.frame] if mask.format == "nifti" else _one(mask)
    if values.shape[2] > 1 and (values != values[:, :, :1]).any():
        raise DataError(f"{mask.entry.name}: its colours are no classes; save a mask with one number a pixel")
    return values[:, :, 0]


def _one(mask: PictureMask) -> npt.NDArray[np.float32]:
    if mask.format == "raster":
        from medgen.imaging.reading.raster import read_labels

        with failing_as(mask.entry.name, "the pixels cannot be decoded"):
            return read_labels(mask.entry, mask.frame)
    return _floats(formats.read(mask.entry, mask.format, (mask.frame,), hu=False)[0])


@lru_cache(maxsize=1)
def _pictures(entry: Entry, format_: Format) -> npt.NDArray[np.float32]:
    """(F, H, W, 1) all frames of a volume, which is inflated as a whole anyway."""
    frames = [facts.frame for facts in formats.scan(entry, "")]
    return _floats(formats.read(entry, format_, sorted(frames), hu=False))


def _floats(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return values.astype(np.float32, copy=False)


@lru_cache(maxsize=1)
def _stored(entry: Entry) -> npt.NDArray[Any]:
    """(F, H, W) values of a segmentation, as they are stored."""
    from medgen.imaging.reading.pixels import stored_frames

    with failing_as(entry.name, "the pixels cannot be decoded"):
        return stored_frames(entry)


def _drawn(mask: LayeredMask) -> Iterator[tuple[Layer, Plane]]:
    """Each layer and where it is."""
    shape = mask.rows, mask.columns
    for layer in mask.layers:
        if isinstance(layer, Segment):
            values = _stored(layer.entry)[layer.frame]
            yield layer, np.asarray((values >= layer.low) & (values <= layer.high))
        else:
            yield layer, filled(layer.polygons, shape)


def filled(polygons: Sequence[npt.NDArray[np.float64]], shape: tuple[int, int]) -> Plane:
    """(H, W) pixels whose centres lie in an odd number of `polygons` of (row, column)."""
    import skimage.draw

    polygon = cast(Any, skimage.draw).polygon

    plane = np.zeros(shape, bool)
    for corners in polygons:
        rows, columns = polygon(corners[:, 0], corners[:, 1], shape)
        plane[rows, columns] ^= True
    return plane
