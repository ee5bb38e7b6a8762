"""What a worker process does: scan headers, and read slices into their final geometry. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import as_bytes
from medgen.errors import DataError, MedgenError
from medgen.imaging.cases.intensity import Encoding
from medgen.imaging.cases.options import asks_for
from medgen.imaging.geometry import Pair, PlaneMap
from medgen.imaging.masks.classes import MaskClasses
from medgen.imaging.masks.sources import MaskSource, label_map
from medgen.imaging.reading import formats
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.faults import NoPicture
from medgen.imaging.reading.plain_pixels import PlainPixels
from medgen.imaging.reading.rescale import Physical
from medgen.imaging.reading.slices import Format, SliceFacts

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class ScanTask:
    """Files whose headers are to be read."""

    entries: tuple[Entry, ...]
    named: tuple[bool, ...]  # whether the user gave the very file
    modality: str
    wanted: tuple[str, ...] = ()  # modalities that are read although they are not pictures

    def parts(self) -> Iterator[ScanTask]:
        """A task for each file."""
        for entry, named in zip(self.entries, self.named, strict=True):
            yield replace(self, entries=(entry,), named=(named,))

    def __str__(self) -> str:
        return self.entries[0].name


@dataclass(frozen=True)
class PassedOver:
    """A file that holds no picture of a patient, and was not named by the user."""

    holds: str  # in a word; "" where that is not known


Scanned = list[SliceFacts] | PassedOver | str
"""The slices of a file, or that it was passed over, or the reason why it failed."""


@dataclass(frozen=True)
class Piece:
    """Frames of one file, neighbours in their stack."""

    entry: Entry
    format: Format
    frames: tuple[int, ...]
    masks: tuple[MaskSource | None, ...] = ()  # one a frame; empty: no masks
    plain: PlainPixels | None = None
    shifts: tuple[Pair, ...] = ()  # one a frame, (y, x) pixels off the first slice of the case; empty: none


@dataclass(frozen=True)
class ReadTask:
    """Neighbouring slices of one case, and how to process them."""

    case: int
    last: bool  # whether the case is complete with it
    pieces: tuple[Piece, ...]
    plane: PlaneMap
    spacing: tuple[float, float]  # (y, x) mm, of the source
    encoding: Encoding
    channels: int
    hu: bool  # whether the values are Hounsfield units
    mask_classes: MaskClasses | None  # None: no mask array is wanted
    mask_background: bool
    keep_physical: bool  # float32 instead of stored values, for work that needs the whole case
    nameless: bool  # whether nothing tells whose images these are
    telling: Piece | None = None  # the slice that names the case, if it is none of those kept; with the last task

    def parts(self) -> Iterator[ReadTask]:
        """A task for each file of pixels, without its masks."""
        for piece in self.pieces:
            yield replace(self, pieces=(replace(piece, masks=()),), mask_classes=None, telling=None)

    def __str__(self) -> str:
        files = dict.fromkeys(
            entry.name
            for piece in self.pieces
            for entry in (piece.entry, *(source.entry for source in piece.masks if source))
        ) | ({self.telling.entry.name: None} if self.telling else {})
        first, *others = files
        return f"{first} (or one of {len(others)} files read with it)" if others else first


@dataclass
class Slab:
    """The slices of a ReadTask: values (D, C, H, W), stored or physical, and masks (D, 1, H, W).

    `digests` are those of the decoded pixels of each slice, before any change of size or window, and `telling` is that
    of the slice that is read for its digest alone. `identity` is the digest of all slices together, used in place of a
    patient if none is known, and empty otherwise.
    """

    values: npt.NDArray[Any]
    mask: npt.NDArray[np.uint8] | None
    digests: list[bytes]
    identity: bytes
    telling: bytes = b""


def scan(task: ScanTask) -> list[Scanned]:
    """The slices of each file, or why there are none."""
    results: list[Scanned] = []
    for entry, named in zip(task.entries, task.named, strict=True):
        try:
            slices = formats.scan(entry, task.modality)
            wanted = named or not slices[0].holds or asks_for(task.wanted, slices[0].modality)
            results.append(slices if wanted else PassedOver(slices[0].holds))
        except NoPicture as error:
            results.append(str(error) if named else PassedOver(error.holds))
        except MedgenError as error:
            results.append(str(error))
    return results


def read(task: ReadTask) -> Slab:
    """Read, resample and encode. Raises DataError naming the file that cannot be read."""
    try:
        return _slab(task)
    except MemoryError as error:
        raise DataError(f"{task}: too large for the memory that is free ({error}); use fewer --workers") from None


def _slab(task: ReadTask) -> Slab:
    mended = any(piece.shifts for piece in task.pieces)
    fill = float("nan") if mended else task.encoding.fill  # NaN, so that padding is not mixed into neighbouring slices
    planes, masks = [], []
    digests: list[bytes] = []
    identity = sha256()  # processors compute it in hardware, twice as fast as blake2b
    for piece in task.pieces:
        frames = formats.read(piece.entry, piece.format, piece.frames, hu=task.hu, plain=piece.plain)  # (F, H, W, C)
        _check_size(piece.entry, frames.shape[1:3], task.plane)
        digests += map(digest_of, frames)
        if task.nameless:
            identity.update(str(frames.shape[1:]).encode())
            identity.update(as_bytes(np.ascontiguousarray(frames.astype(np.float32, copy=False))))
        maps = [task.plane.shifted(shift) for shift in piece.shifts] or [task.plane] * len(frames)
        for image, plane in zip(frames, maps, strict=True):
            values = _with_channels(image, task.channels)
            if task.mask_background:
                from medgen.imaging.cases.lungs import without_background

                values = without_background(values.astype(np.float32, copy=False), task.spacing)
            planes.append(plane.image(values, fill))
        for source, plane in zip(piece.masks, maps, strict=False):
            masks.append(_mask(source, plane, task.mask_classes))
    stack = np.ascontiguousarray(np.moveaxis(np.stack(planes), 3, 1))  # (D, C, H, W)
    return Slab(
        stack.astype(np.float32, copy=False) if task.keep_physical else task.encoding.encode(stack),
        np.stack(masks)[:, None] if task.mask_classes else None,
        digests,
        identity.digest()[:16] if task.nameless else b"",
        telling_digest(TellingTask(task.telling, task.hu)) if task.telling else b"",
    )


@dataclass(frozen=True)
class TellingTask:
    """The slice whose pixels name a case."""

    piece: Piece
    hu: bool

    def __str__(self) -> str:
        return self.piece.entry.name


def telling_digest(task: TellingTask) -> bytes:
    """The digest of the slice that names a case. Raises DataError naming the file that cannot be read."""
    piece = task.piece
    return digest_of(formats.read(piece.entry, piece.format, piece.frames, hu=task.hu, plain=piece.plain)[0])


def digest_of(image: Physical) -> bytes:
    """A 16-byte digest of the pixels (H, W, C) of a slice, the same however the file stores the values."""
    with np.errstate(invalid="ignore"):
        integers = image.astype(np.int16, copy=False)
    whole = integers is image or np.array_equal(integers, image)
    values = integers if whole else image.astype(np.float32, copy=False)
    digest = sha256(str(values.shape).encode())
    digest.update(as_bytes(np.ascontiguousarray(values)))
    return digest.digest()[:16]


def _check_size(entry: Entry, shape: Sequence[int], plane: PlaneMap) -> None:
    expected = plane.y.source, plane.x.source
    if tuple(shape) != expected:
        raise DataError(
            f"{entry.name}: has {shape[1]} x {shape[0]} pixels, its header says {expected[1]} x {expected[0]}"
        )


def _with_channels(image: Physical, channels: int) -> Physical:
    """(H, W, C) -> (H, W, channels): colour to luminance, or grey three times."""
    if image.shape[2] == channels:
        return image
    if channels == 1:
        return image @ _LUMINANCE[:, None]
    return np.repeat(image, channels, axis=2)


def _mask(source: MaskSource | None, plane: PlaneMap, classes: MaskClasses | None) -> npt.NDArray[np.uint8]:
    """One slice's mask (H, W) in the geometry of its image; all background where there is none."""
    if source is None or classes is None:
        return np.zeros((plane.y.target, plane.x.target), dtype=np.uint8)
    labels = label_map(source, classes)
    _check_size(source.entry, labels.shape, plane)
    return plane.labels(labels)
