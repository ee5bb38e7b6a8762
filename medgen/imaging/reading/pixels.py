"""DICOM pixels: decoded, in physical units, higher values brighter, colour as RGB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array

from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.dicom import read_dataset
from medgen.imaging.reading.jpeg_12_bit import decode_12_bit_jpeg, is_12_bit_jpeg
from medgen.imaging.reading.mosaic import is_mosaic, tiles
from medgen.imaging.reading.plain_pixels import PlainPixels
from medgen.imaging.reading.rescale import Physical, filled, has_table, rescale_of

Floats = npt.NDArray[np.float32]

# The decoder for each compressed transfer syntax: the fastest that is exact and well kept.
_DECODERS = {
    "1.2.840.10008.1.2.5": "pylibjpeg",  # RLE
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000, by OpenJPEG
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # high-throughput JPEG 2000
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}


def read_dicom(entry: Entry, frames: Sequence[int], *, hu: bool, plain: PlainPixels | None = None) -> Physical:
    """The `frames` of a file as (F, H, W, C); colour in [0, 255], or unscaled if it has more than 8 bits.

    `plain` locates pixels that need no decoder.
    """
    stored = plain.read(entry) if plain else None
    if plain and stored is not None:
        return filled(plain.rescale.physical(stored), plain.rescale.missing(stored), hu=hu)[None, :, :, None]
    dataset = read_dataset(entry)
    stored = _decode(dataset)  # (F, H, W, C)
    if stored.shape[-1] == 3:
        return _colour(stored[list(frames)], dataset)
    return np.stack([_physical(dataset, stored[frame, :, :, 0], frame, hu) for frame in frames])[..., None]


def stored_frames(entry: Entry) -> npt.NDArray[Any]:
    """All frames of a grey file as they are stored, (F, H, W)."""
    return _decode(read_dataset(entry))[..., 0]


def _decode(dataset: Dataset) -> npt.NDArray[Any]:
    """Stored values (F, H, W, C)."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    array = _by_plugin(dataset) if not is_12_bit_jpeg(dataset) else decode_12_bit_jpeg(dataset)
    array = array.reshape(frames, int(dataset.Rows), int(dataset.Columns), -1)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        array = apply_color_lut(array[..., 0], dataset)
    return tiles(array, dataset) if is_mosaic(dataset) else array


def _by_plugin(dataset: Dataset) -> npt.NDArray[Any]:
    """What pydicom and its plugins decode, in the shape they choose."""
    plugin = _DECODERS.get(str(dataset.file_meta.get("TransferSyntaxUID", "")), "")
    try:
        return pixel_array(dataset, decoding_plugin=plugin)
    except (RuntimeError, ValueError, AttributeError) as error:
        if not plugin:
            raise
        try:
            return pixel_array(dataset)  # another decoder may be more lenient
        except (RuntimeError, ValueError, AttributeError):
            raise error from None


def _colour(stored: npt.NDArray[Any], dataset: Dataset) -> Floats:
    values = stored.astype(np.float32)
    if dataset.get("PhotometricInterpretation") != "PALETTE COLOR":
        return values
    return values if stored.dtype.itemsize == 1 else np.rint(values / np.float32(257.0))


def _physical(dataset: Dataset, stored: npt.NDArray[Any], frame: int, hu: bool) -> Physical:
    """One grey frame (H, W): padding recognised, MONOCHROME1 turned, then slope and intercept of this frame."""
    rescale = rescale_of(dataset, frame, stored.dtype)
    missing = rescale.missing(stored)
    values = stored
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        low, high = _stored_range(dataset, stored)
        values = np.float32(low + high) - values.astype(np.float32)
    if dataset.get("BitsAllocated") == 1:
        values = values.astype(np.float32) * np.float32(255.0)
    if has_table(dataset):
        values = apply_modality_lut(values.astype(stored.dtype), dataset).astype(np.float32)
    else:
        values = rescale.physical(values)
    return filled(values, missing, hu=hu)


def _stored_range(dataset: Dataset, stored: npt.NDArray[Any]) -> tuple[float, float]:
    if stored.dtype.kind == "f":
        return float(np.nanmin(stored)), float(np.nanmax(stored))
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    return float(min(low, stored.min())), float(max(high, stored.max()))
