"""DICOM headers: one record for each slice, whether files hold one frame or many."""

from __future__ import annotations

import io
import math
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from medgen.artifacts.schema import GENERATED
from medgen.artifacts.synthetic import told_by
from medgen.errors import DataError
from medgen.imaging.reading.archive import Entry, digest_of_sample
from medgen.imaging.reading.faults import NoPicture
from medgen.imaging.reading.functional_groups import frame_value
from medgen.imaging.reading.mosaic import is_mosaic, unfolded
from medgen.imaging.reading.plain_pixels import PlainPixels, plain_pixels
from medgen.imaging.reading.rescale import has_table
from medgen.imaging.reading.slices import Kind, SliceFacts, Vector3, defined_modality

# Classes of pictures whose name has no "Image" in it.
_PICTURES = ("Parametric Map Storage", "Enhanced US Volume Storage")
# Attributes that separate stacks of one series that lie on the same positions, and where frames keep them.
_PHASES: dict[str, tuple[str, str] | None] = {
    "StackID": ("FrameContentSequence", "StackID"),
    "TemporalPositionIdentifier": None,
    "TemporalPositionIndex": ("FrameContentSequence", "TemporalPositionIndex"),
    "EchoNumbers": None,
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "TriggerTime": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "ContentTime": None,
    "ImageType": ("MRImageFrameTypeSequence", "FrameType"),
    "DiffusionGradientOrientation": ("MRDiffusionSequence", "DiffusionGradientDirectionSequence"),
}

_SCALING = "PixelValueTransformationSequence"
_HOUNSFIELD = ("", "HU", "HU_MOD", "US")
"""Rescale types of CT in HU, which some scanners call unspecified (US)."""


def scan_dicom(entry: Entry) -> list[SliceFacts]:
    """The slices of one DICOM file, without reading its pixels. DataError says why there are none.

    NoPicture where the file is of a kind that has none: a report, a plan, a directory.
    """
    with entry.open() as file:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        plain = plain_pixels(dataset, file, entry.size)
        sample = digest_of_sample(file)  # the file is positioned at the end of the header
    if "Rows" not in dataset or "Columns" not in dataset:
        uid = _class_of(dataset)
        told = f"{entry.name}: holds no image" + (f" ({uid.name})" if uid else "")
        holds = "private object" if uid and uid.is_private else _held_instead(dataset)
        raise NoPicture(told, holds) if holds else DataError(told)
    kind = _kind(dataset)
    if is_mosaic(dataset):
        return unfolded(_facts(entry, dataset, 0, kind, None, sample), dataset)
    frames = max(1, _frames(dataset))
    if frames > entry.size:
        raise DataError(f"{entry.name}: its header says {frames} frames, more than the file has bytes")
    return [_facts(entry, dataset, frame, kind, plain, sample) for frame in range(frames)]


def read_dataset(entry: Entry) -> Dataset:
    """Parse a whole DICOM file."""
    if entry.member:  # slow to seek in
        return pydicom.dcmread(io.BytesIO(entry.read()), force=True)
    with entry.open() as file:
        return pydicom.dcmread(file, force=True)


def _facts(
    entry: Entry, dataset: Dataset, frame: int, kind: Kind, plain: PlainPixels | None, sample: str
) -> SliceFacts:
    series, sop = str(dataset.get("SeriesInstanceUID") or ""), str(dataset.get("SOPInstanceUID") or "")
    across, down = _axes(frame_value(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient"))
    position = _numbers(frame_value(dataset, frame, "PlanePositionSequence", "ImagePositionPatient"), 3)
    offsets = dataset.get("GridFrameOffsetVector")
    if position and across and down and offsets is not None and frame < len(offsets):  # dose grids
        normal = cross(across, down)
        away = float(offsets[frame])
        if offsets[0]:  # not distances, but positions on the z axis
            away = (away - float(offsets[0])) * math.copysign(1.0, normal[2])
        position = tuple(p + away * n for p, n in zip(position, normal, strict=True))
    elif _frames(dataset) > 1 and not dataset.get("PerFrameFunctionalGroupsSequence"):
        position = None  # one position for many frames is a film, not a stack
    spacing = _numbers(frame_value(dataset, frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
    spacing = spacing or _at_the_object(dataset)
    return SliceFacts(
        entry=entry,
        frame=frame,
        format="dicom",
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        colour=int(dataset.get("SamplesPerPixel") or 1) >= 3
        or dataset.get("PhotometricInterpretation") == "PALETTE COLOR",
        kind=kind,
        modality=_modality(dataset),
        localizer="LOCALIZER" in (dataset.get("ImageType") or ()),
        capture="Secondary Capture" in _class_of(dataset).name,
        holds=_held_instead(dataset),
        patient=str(dataset.get("PatientID") or "").strip() or str(dataset.get("StudyInstanceUID") or series or sop),
        series=series,
        sop=sop,
        position=position if across else None,
        across=across,
        down=down,
        spacing=spacing if spacing and min(spacing) > 0 else None,
        aspect=_aspect(dataset),
        step=_length(frame_value(dataset, frame, "PixelMeasuresSequence", "SpacingBetweenSlices")),
        thickness=_length(frame_value(dataset, frame, "PixelMeasuresSequence", "SliceThickness")),
        reference=str(dataset.get("FrameOfReferenceUID") or ""),
        phase=tuple(_phase(dataset, frame, keyword) for keyword in _PHASES),
        synthetic=_synthetic(dataset),
        sample=sample,
        plain=plain,
    )


def _at_the_object(dataset: Dataset) -> tuple[float, float] | None:
    """Spacing (y, x) of an X-ray image, mm: that at the detector by the magnification, where it is told."""
    spacing = _numbers(dataset.get("ImagerPixelSpacing"), 2)
    factor = _length(dataset.get("EstimatedRadiographicMagnificationFactor")) or 1.0
    return (spacing[0] / factor, spacing[1] / factor) if spacing else None


def _aspect(dataset: Dataset) -> float:
    """Height of a pixel by its width."""
    height, width = _numbers(dataset.get("PixelAspectRatio"), 2) or (1.0, 1.0)
    return height / width if min(height, width) > 0 else 1.0


def _synthetic(dataset: Dataset) -> str:
    """What a file says about how it was made; models other than ours may not say whether they altered a real image."""
    if dataset.get("SyntheticData") != "YES":
        return ""
    return told_by(str(dataset.get("ImageComments") or "")) or GENERATED


def _modality(dataset: Dataset) -> str:
    return defined_modality(str(dataset.get("Modality") or ""))


def _kind(dataset: Dataset) -> Kind:
    """On which scale the values of a file are."""
    bits = int(dataset.get("BitsAllocated") or 32)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        return "byte"  # its tables hold colours for screens
    if int(dataset.get("SamplesPerPixel") or 1) >= 3:
        return "byte" if int(dataset.get("BitsStored") or bits) <= 8 else "other"
    if _modality(dataset) == "CT" and bits in (16, 32) and _in_hounsfield(dataset):
        return "hu"
    signed = int(dataset.get("PixelRepresentation") or 0)
    return "byte" if bits <= 8 and not signed and not has_table(dataset) and _unscaled(dataset) else "other"


def _in_hounsfield(dataset: Dataset) -> bool:
    """Whether the values of a CT file are HU, and not of a map of something else, such as iodine."""
    if "Parametric Map" in _class_of(dataset).name:
        return False
    unit = str(frame_value(dataset, 0, _SCALING, "RescaleType") or "").upper()
    return unit in _HOUNSFIELD or unit.startswith("HOUN")


def _unscaled(dataset: Dataset) -> bool:
    """Whether the physical values of all frames are those that are stored."""
    frames = range(max(1, len(dataset.get("PerFrameFunctionalGroupsSequence") or ())))
    return all(
        frame_value(dataset, frame, _SCALING, keyword) in (None, neutral)
        for frame in frames
        for keyword, neutral in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )


def _phase(dataset: Dataset, frame: int, keyword: str) -> str:
    place = _PHASES[keyword]
    told = frame_value(dataset, frame, *place) if place else None
    if isinstance(told, Sequence):
        told = told[0].get(keyword) if told else None
    return str(told if told is not None else dataset.get(keyword) or "")


def _axes(orientation: Any) -> tuple[Vector3 | None, Vector3 | None]:
    values = _numbers(orientation, 6)
    if values is None:
        return None, None
    across, down = _unit(values[:3]), _unit(values[3:])
    if across is None or down is None or abs(sum(a * b for a, b in zip(across, down, strict=True))) > 0.01:
        return None, None
    return across, down


def _unit(values: tuple[float, ...]) -> Vector3 | None:
    norm = math.sqrt(sum(value * value for value in values))
    return (values[0] / norm, values[1] / norm, values[2] / norm) if norm > 1e-6 else None


def cross(a: Vector3, b: Vector3) -> Vector3:
    """The vector product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _numbers(values: Any, count: int) -> Any:
    """`count` finite floats as a tuple, or None."""
    if values is None or isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
        return None
    numbers = tuple(float(value) for value in values)
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _length(value: Any) -> float | None:
    """A length in mm, or None if it is absent, zero or not a number."""
    length = abs(float(value)) if value is not None else 0.0
    return length if length > 0 and math.isfinite(length) else None


def _frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _class_of(dataset: Dataset) -> UID:
    """The SOP class; empty if it is not given."""
    return UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""))


def _held_instead(dataset: Dataset) -> str:
    """What a file of this class holds if it is no picture of a patient; "" for pictures and unknown classes."""
    uid = _class_of(dataset)
    if dataset.get("Modality") == "SEG":
        return "Segmentation"
    pictures = uid.type != "SOP Class" or "Image" in uid.name or uid.name in _PICTURES
    return "" if pictures else uid.name.removesuffix(" Storage")
