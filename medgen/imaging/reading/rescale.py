"""From stored values of a grey DICOM frame to physical ones: slope, intercept, and pixels that were not measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medgen.imaging.reading.functional_groups import frame_value

if TYPE_CHECKING:  # the main process unpickles these records, and has no need of pydicom
    from pydicom.dataset import Dataset

Physical = npt.NDArray[np.float32 | np.int16]
"""Values in physical units; as integers where that loses nothing."""

AIR_HU = -1000.0
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, slots=True)
class Rescale:
    """How values are scaled, and the first and last stored value with which the scanner wrote "no measurement here"."""

    slope: float | None
    intercept: float | None
    padding: tuple[float, float] | None

    def missing(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Where nothing was measured."""
        if self.padding is None:
            return np.zeros(stored.shape, dtype=bool)
        first, last = self.padding
        if stored.dtype.kind in "iu" and math.isfinite(first) and math.isfinite(last):  # compare integers as such
            first, last = math.ceil(first), math.floor(last)
        inside: npt.NDArray[np.bool_] = stored == first if first == last else (stored >= first) & (stored <= last)
        return inside

    def physical(self, values: npt.NDArray[Any]) -> Physical:
        """Values times slope plus intercept; int16 where 16-bit integers are only shifted, and stay in that range."""
        shift = self.intercept or 0.0
        only_shifted = values.dtype in (np.int16, np.uint16) and self.slope in (None, 1.0) and shift % 1 == 0
        if only_shifted and _INT16.min <= values.min() + shift and values.max() + shift <= _INT16.max:
            # Both are taken modulo 2^16, and so is the sum, which is in range.
            return values.astype(np.int16) + np.array(int(shift) & 0xFFFF, np.uint16).view(np.int16)
        scaled = values.astype(np.float32)
        if self.slope is not None:
            scaled *= np.float32(self.slope)
        if self.intercept is not None:
            scaled += np.float32(self.intercept)
        return scaled


def filled(values: Physical, missing: npt.NDArray[np.bool_], *, hu: bool) -> Physical:
    """`values` with air where nothing was measured, or with their darkest value if they are not in HU; in place."""
    if values.dtype.kind == "f":
        missing |= ~np.isfinite(values)
    if missing.any():
        values[missing] = AIR_HU if hu else values[~missing].min() if not missing.all() else 0.0
    return values


def has_table(dataset: Dataset) -> bool:
    """Whether a table maps stored values to physical ones; some scanners write an empty one."""
    items = dataset.get("ModalityLUTSequence")
    return bool(items) and bool(items[0].get("LUTDescriptor")) and bool(items[0].get("LUTData"))


def rescale_of(dataset: Dataset, frame: int, dtype: np.dtype[Any]) -> Rescale:
    """The scaling that the header gives for a frame whose stored values are of `dtype`."""
    slope = frame_value(dataset, frame, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = frame_value(dataset, frame, "PixelValueTransformationSequence", "RescaleIntercept")
    if slope is None and dataset.get("DoseGridScaling") is not None:
        slope = dataset.DoseGridScaling
    padding = dataset.get("FloatPixelPaddingValue", dataset.get("PixelPaddingValue"))
    limit = dataset.get("FloatPixelPaddingRangeLimit", dataset.get("PixelPaddingRangeLimit"))
    if padding is None:
        between = None
    else:
        first = _as_stored(padding, dataset, dtype)
        last = first if limit is None else _as_stored(limit, dataset, dtype)
        between = min(first, last), max(first, last)
    if between == (0.0, 0.0) and dtype.kind == "u" and _dark_at_zero(dataset):
        between = None
    return Rescale(
        None if slope is None else float(slope),
        None if intercept is None else float(intercept),
        between,
    )


def _dark_at_zero(dataset: Dataset) -> bool:
    """Whether 0 is already what padding becomes: the darkest value there is. In CT that is air instead."""
    kind, modality = str(dataset.get("PhotometricInterpretation")), str(dataset.get("Modality"))
    return kind == "MONOCHROME2" and modality != "CT"


def _as_stored(value: float | bytes, dataset: Dataset, dtype: np.dtype[Any]) -> float:
    """Padding values are often written as unsigned though the pixels are signed, or the other way round."""
    number = float(int.from_bytes(value, "little")) if isinstance(value, bytes) else float(value)
    if dtype.kind == "f":
        return number
    bits: int = int(dataset.BitsAllocated)
    if dtype.kind == "i" and number >= 2 ** (bits - 1):
        return number - float(1 << bits)
    if dtype.kind == "u" and number < 0:
        return number + float(1 << bits)
    return number
