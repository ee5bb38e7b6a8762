"""The parts of a DICOM file that all images written here share. No clock, no random UID: same input, same bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

IMPLEMENTATION = uid.UID("2.25.302043790172249692526321623266752743501")  # fixed: says that this package wrote it

ENCODERS = {uid.JPEGLSLossless: "pyjpegls", uid.JPEG2000Lossless: "pylibjpeg", uid.RLELossless: "pylibjpeg"}


def derived_uid(*parts: object) -> str:
    """A UID under 2.25 that depends on `parts` alone."""
    joined = "\0".join(str(part) for part in parts)
    return f"2.25.{int.from_bytes(hashlib.sha256(joined.encode()).digest()[:16], 'big')}"


def decimal(value: float) -> str:
    """A number as DICOM decimal string: at most 16 characters, as exact as they allow."""
    for digits in range(17, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(value)


def set_plane(
    dataset: Dataset,
    position: Sequence[float],
    row_direction: Sequence[float],
    column_direction: Sequence[float],
    pixel_spacing: tuple[float, float],
) -> None:
    """Image Plane module: centre of the first pixel (LPS, mm), unit vectors along a row (x axis) and a column (y axis),
    and the distances between rows and between columns."""
    dataset.ImagePositionPatient = [decimal(value) for value in position]
    dataset.ImageOrientationPatient = [decimal(value) for value in (*row_direction, *column_direction)]
    dataset.PixelSpacing = [decimal(value) for value in pixel_spacing]


def set_pixels(dataset: Dataset, pixels: npt.NDArray[Any], *, bits: int | None = None) -> None:
    """Image Pixel module for (H, W) grey or (H, W, 3) colour, 8- or 16-bit integers."""
    colour = pixels.ndim == 3
    allocated = 8 * pixels.dtype.itemsize
    stored = bits or allocated
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, stored, stored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"


def encode(dataset: Dataset, transfer_syntax: str = str(uid.ExplicitVRLittleEndian)) -> bytes:
    """The DICOM file of `dataset`, which must hold SOPClassUID, SOPInstanceUID and uncompressed pixels."""
    syntax = uid.UID(transfer_syntax)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION
    dataset.file_meta.ImplementationVersionName = "MEDGEN"
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax in ENCODERS:
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        dataset.compress(syntax, encoding_plugin=ENCODERS[syntax], generate_instance_uid=False)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
