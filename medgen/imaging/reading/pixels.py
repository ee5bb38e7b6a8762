"""DICOM pixels: decoded, in physical units, higher values brighter, colour as RGB."""

from __future__ import annotations

import math
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
from medgen.imaging.reading.plain_pixels import PlainPixels, unused_below
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
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        return _by_palette(stored[list(frames), :, :, 0], dataset)
    if stored.shape[-1] == 3:
        return stored[list(frames)].astype(np.float32)
    return np.stack([_physical(dataset, stored[frame, :, :, 0], frame, hu) for frame in frames])[..., None]


def stored_frames(entry: Entry) -> npt.NDArray[Any]:
    """All frames of a grey file as they are stored, (F, H, W); of one with a palette, the indices."""
    return _decode(read_dataset(entry))[..., 0]


def _decode(dataset: Dataset) -> npt.NDArray[Any]:
    """Stored values (F, H, W, C)."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    array = _aligned(dataset) if not is_12_bit_jpeg(dataset) else decode_12_bit_jpeg(dataset)
    shape = frames, int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
    if array.size != math.prod(shape):
        raise ValueError(f"it holds pixels for {array.size / math.prod(shape[1:]):g} frames, its header says {frames}")
    array = array.reshape(shape)
    return tiles(array, dataset) if is_mosaic(dataset) else array


def _by_palette(indices: npt.NDArray[Any], dataset: Dataset) -> Floats:
    """(F, H, W) indices -> (F, H, W, 3) in [0, 255].

    Tables of 8 bits may fill words of 16, whatever the header says (DICOM PS3.3, C.7.6.3.1.5 and C.7.6.3.1.6).
    """
    count, first, bits = dataset.RedPaletteColorLookupTableDescriptor
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        if bits <= 8 and count > 256:
            raise ValueError(f"a palette of {count} entries of 8 bits in segments is not read")
        return _eight_bits(apply_color_lut(indices, dataset)[..., :3], bits > 8)
    tables = np.stack([_table(dataset, name, count % 65536 or 65536) for name in ("Red", "Green", "Blue")], axis=1)
    places = np.clip(indices.astype(np.int32) - first, 0, len(tables) - 1)
    colours: Floats = _eight_bits(tables, bool(tables.max() > 255))[places]
    return colours


def _table(dataset: Dataset, colour: str, count: int) -> npt.NDArray[Any]:
    """The `count` entries of a palette for one of its colours."""
    words = dataset[f"{colour}PaletteColorLookupTableData"].value
    if isinstance(words, bytes):
        words = np.frombuffer(words[: len(words) // 2 * 2], "<u2" if dataset.original_encoding[1] else ">u2")
    entries = np.asarray(words, "<u2")
    return entries[:count] if len(entries) >= count else entries.view(np.uint8)[:count]


def _eight_bits(colours: npt.NDArray[Any], wide: bool) -> Floats:
    values: Floats = colours.astype(np.float32)
    return np.rint(values / np.float32(257.0), out=values) if wide else values


def _aligned(dataset: Dataset) -> npt.NDArray[Any]:
    """What is decoded; of values that old files keep in the upper bits of their words, without the bits below."""
    below = unused_below(dataset)
    if below and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.BitsStored += below
        array = _by_plugin(dataset)
        dataset.BitsStored -= below
        if not (array & ((1 << below) - 1)).any():  # else the header is wrong
            return array >> below
    return _by_plugin(dataset)


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


def _physical(dataset: Dataset, stored: npt.NDArray[Any], frame: int, hu: bool) -> Physical:
    """One grey frame (H, W): padding recognised, MONOCHROME1 turned, then slope and intercept of this frame."""
    rescale = rescale_of(dataset, frame, stored.dtype)
    missing = rescale.missing(stored)
    values = stored
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not hu:  # HU are HU, however they are shown
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
