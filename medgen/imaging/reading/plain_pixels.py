"""Pixels as most scanners write them: grey, uncompressed, 16 bits, one frame.

Their offset is noted when the header is read, so that reading them later only reads bytes: no header is parsed twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import as_bytes
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.rescale import Rescale, has_table, rescale_of

if TYPE_CHECKING:  # the main process unpickles these records, and has no need of pydicom
    from pydicom.dataset import Dataset

_LITTLE_ENDIAN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")  # implicit and explicit, neither compressed nor deflated
_PIXEL_DATA = b"\xe0\x7f\x10\x00"  # tag (7FE0,0010)


@dataclass(frozen=True, slots=True)
class PlainPixels:
    """One frame (rows, columns) of 16-bit integers that begins `place` bytes into its file."""

    place: int
    rows: int
    columns: int
    signed: bool
    unused_bits: int  # at the upper end of each value, where anything may stand
    rescale: Rescale

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return np.dtype("<i2" if self.signed else "<u2")

    def read(self, entry: Entry) -> npt.NDArray[Any] | None:
        """Stored values (H, W); None where the file has become shorter since."""
        size = self.rows * self.columns * 2
        if entry.member:  # inflated to its end, where its checksum is compared
            content = entry.read()[self.place : self.place + size]
            if len(content) < size:
                return None
            stored = np.frombuffer(content, self.dtype)
        else:
            stored = np.empty(self.rows * self.columns, self.dtype)
            with entry.open() as file:
                file.seek(self.place)
                if file.readinto(as_bytes(stored)) < size:  # type: ignore[attr-defined]
                    return None
        if self.unused_bits:
            stored = (stored << self.unused_bits) >> self.unused_bits
        return stored.reshape(self.rows, self.columns)


def plain_pixels(dataset: Dataset, file: IO[bytes], size: int) -> PlainPixels | None:
    """The location of the pixels in `file` of `size` bytes, which is positioned at the end of its header `dataset`.

    None for any other kind of pixels, and for anything invalid: the decoder will report it.
    """
    try:
        bits = int(dataset.BitsStored)
        plain = (
            str(dataset.file_meta.get("TransferSyntaxUID", "")) in _LITTLE_ENDIAN
            and (dataset.SamplesPerPixel, dataset.PhotometricInterpretation) == (1, "MONOCHROME2")
            and dataset.BitsAllocated == 16
            and 1 <= bits <= 16
            and dataset.PixelRepresentation in (0, 1)
            and dataset.get("NumberOfFrames") in (None, 1)
            and not has_table(dataset)
            and not unused_below(dataset)
        )
        if not plain:
            return None
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        element = file.read(12)
        place = file.tell()
        if element[4:6] not in (b"OW", b"OB"):  # implicit: the length follows the tag at once
            element, place = element[:4] + bytes(4) + element[4:8], place - 4
        length = int.from_bytes(element[8:], "little")
        if element[:4] != _PIXEL_DATA or length != rows * columns * 2 or not 0 < length <= size - place:
            return None
        signed = dataset.PixelRepresentation == 1
        rescale = rescale_of(dataset, 0, np.dtype("i2" if signed else "u2"))
        return PlainPixels(place, rows, columns, signed, 16 - bits, rescale)
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError, NotImplementedError):
        return None


def unused_below(dataset: Dataset) -> int:
    """The bits below those that hold a value, where the highest of these is not the last one stored."""
    if "HighBit" not in dataset or "BitsStored" not in dataset:
        return 0
    below = int(dataset.HighBit) + 1 - int(dataset.BitsStored)
    return below if below > 0 and int(dataset.HighBit) < int(dataset.BitsAllocated) else 0
