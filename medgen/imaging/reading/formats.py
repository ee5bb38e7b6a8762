"""Recognise the format of a file by its content, and pass it to the right reader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medgen.errors import DataError
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.faults import NoPicture, failing_as
from medgen.imaging.reading.plain_pixels import PlainPixels
from medgen.imaging.reading.rescale import Physical, filled
from medgen.imaging.reading.slices import SliceFacts

_RASTER_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"BM")
_RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


def scan(entry: Entry, modality: str) -> list[SliceFacts]:
    """The slices of a file, from its header; `modality` is assumed where the file does not say.

    Raises NoPicture for a file that neither is nor claims to be an image, or holds something else, and DataError with
    the reason why an image cannot be read.
    """
    with failing_as(entry.name, "not a readable file"):
        beginning = entry.head(132)
    if not beginning:
        raise DataError(f"{entry.name}: is empty")
    if beginning[128:] == b"DICM" or entry.suffix in _DICOM_SUFFIXES:
        return _scan_dicom(entry)
    if entry.suffix in (".nii", ".nii.gz"):
        from medgen.imaging.reading.nifti import scan_nifti

        with failing_as(entry.name, "not a readable NIfTI file"):
            return scan_nifti(entry, modality)
    if beginning.startswith(_RASTER_MAGIC) or entry.suffix in _RASTER_SUFFIXES:
        from medgen.imaging.reading.raster import scan_raster

        with failing_as(entry.name, "not a readable image"):
            return scan_raster(entry, modality)
    try:  # DICOM of old has no preamble, and often no extension either
        slices = _scan_dicom(entry)
    except NoPicture:
        raise
    except DataError:
        slices = []
    if slices and slices[0].sop:
        return slices
    raise NoPicture(f"{entry.name}: neither DICOM, NIfTI, PNG, JPG, TIFF nor BMP")


def _scan_dicom(entry: Entry) -> list[SliceFacts]:
    from medgen.imaging.reading.dicom import scan_dicom

    with failing_as(entry.name, "not a readable DICOM file"):
        return scan_dicom(entry)


def read(entry: Entry, format_: str, frames: Sequence[int], *, hu: bool, plain: PlainPixels | None = None) -> Physical:
    """The pixels of `frames`, (F, H, W, C) in physical units. Raises DataError with the reason."""
    with failing_as(entry.name, "the pixels cannot be decoded"):
        if format_ == "dicom":
            from medgen.imaging.reading.pixels import read_dicom

            return read_dicom(entry, frames, hu=hu, plain=plain)
        if format_ == "nifti":
            from medgen.imaging.reading.nifti import read_nifti

            values = read_nifti(entry, frames)
        else:
            from medgen.imaging.reading.raster import read_raster

            values = read_raster(entry, frames)
        return filled(values, np.zeros(values.shape, dtype=bool), hu=hu)
