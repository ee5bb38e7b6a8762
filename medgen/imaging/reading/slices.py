"""What is known of a slice before its pixels are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.plain_pixels import PlainPixels

Kind = Literal["hu", "byte", "other"]  # CT in HU, values 0..255, or any other scale
BYTES = "grey value"
"""The unit of values from 0 to 255."""
MAX_PIXELS = 1 << 28
"""Of a slice: a side of 16384 is far above any scanner, far below what harms."""
Format = Literal["dicom", "nifti", "raster"]

Vector3 = tuple[float, float, float]

_DEFINED = """
    AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER
    KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE
    RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA
    XAPROTOCOL XC
    AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF
"""
_MODALITIES = frozenset(_DEFINED.split())
"""DICOM PS3.3 2024d, C.7.3.1.1.1: defined terms of Modality (0008,0060), and in the last line those it has retired."""


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """One slice: where it is read from, its size, and its position in space (LPS, mm) as far as the file gives it."""

    entry: Entry
    frame: int  # index in a multi-frame file or NIfTI volume
    format: Format
    rows: int
    columns: int
    colour: bool
    kind: Kind
    modality: str = ""
    localizer: bool = False  # a scout image, from which the scan was planned
    capture: bool = False  # of a screen or a film
    holds: str = ""  # what it is instead of a picture of a patient, such as a segmentation of one
    patient: str = ""
    series: str = ""  # SeriesInstanceUID
    sop: str = ""  # SOPInstanceUID
    position: Vector3 | None = None  # centre of the first pixel
    across: Vector3 | None = None  # unit vector along a row, the x axis of the array
    down: Vector3 | None = None  # unit vector along a column, the y axis
    spacing: tuple[float, float] | None = None  # (y, x) mm
    aspect: float = 1.0  # height of a pixel by its width, where the spacing is not known
    step: float | None = None  # mm from slice to slice, as the header states it
    thickness: float | None = None  # mm that the slice averages over
    reference: str = ""  # FrameOfReferenceUID
    phase: tuple[str, ...] = ()  # echo, time point, ...: tells apart stacks that share their positions
    synthetic: str = ""  # what the file says of itself, as in `Case`
    sample: str = ""  # a digest of some of its file's content, without the header of DICOM, which names people
    plain: PlainPixels | None = None  # where the pixels lie in a DICOM file, if they need no decoder


def defined_modality(told: str) -> str:
    """The modality that a file states; "" for a term that the standard does not define, which is free text."""
    term = told.strip().upper()
    return term if term in _MODALITIES else ""
