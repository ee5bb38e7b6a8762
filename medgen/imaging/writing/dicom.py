"""Cases -> DICOM series: derived images with new UIDs, true geometry and no patient."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset

from medgen.artifacts.label_maps import mask_names
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.synthetic import describe
from medgen.errors import DataError
from medgen.imaging.writing.dicom_parts import decimal, derived_uid, encode, set_pixels, set_plane
from medgen.imaging.writing.masks import label_map_of
from medgen.imaging.writing.placement import UNPLACED, slice_places
from medgen.imaging.writing.png import eight_bits
from medgen.imaging.writing.segmentation import segmentation

_IMAGE_TYPES = {"CT": ("AXIAL",), "MR": ("OTHER",)}
"""The third part of the image type, which the standard demands of these modalities."""


def write_dicom(folder: Path, name: str, case: Case, header: SetHeader) -> list[str]:
    """Write one case as the series `folder/name/0000.dcm`, ...; returns names relative to `folder`, one per slice.

    Its mask becomes the segmentation `folder/name_mask.dcm`.
    """
    (folder / name).mkdir()
    intensity = header.intensity or Intensity(unit="", window=(-1.0, 1.0))
    pixels, scale, offset = storable(case["image"], intensity, f"case {case.id}")
    series = _series(case, header, intensity)
    content = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    parts = (header.provenance.id, case.id, content)
    series.StudyInstanceUID = derived_uid("study", *parts)
    series.SeriesInstanceUID = derived_uid("series", *parts)
    series.FrameOfReferenceUID = derived_uid("frame", case.frame) if case.frame else derived_uid("frame", *parts)
    _, down, across = case.axes
    places = slice_places(case)
    files = []
    for index, plane in enumerate(pixels):
        dataset = Dataset(series)
        dataset.SOPInstanceUID = derived_uid("image", *parts, index)
        dataset.InstanceNumber = str(index + 1)
        if places is not None:
            pixel = (case.spacing[1], case.spacing[2])
            set_plane(dataset, places[index].tolist(), across.tolist(), down.tolist(), pixel)
        dataset.ImageComments = _comment(case, index)
        if plane.ndim == 2:
            dataset.RescaleIntercept, dataset.RescaleSlope = decimal(offset), decimal(scale)
            dataset.RescaleType = _unit(intensity, series.Modality)
            low, high = intensity.window
            dataset.WindowCenter, dataset.WindowWidth = decimal((low + high) / 2), decimal(high - low)
            # By the usual function LINEAR a window of width 1, such as that of relative values, is black or white.
            dataset.VOILUTFunction = "LINEAR_EXACT"
        set_pixels(dataset, plane)
        files.append(f"{name}/{index:04d}.dcm")
        (folder / files[-1]).write_bytes(encode(dataset))
    if "mask" in case.arrays:
        images = [derived_uid("image", *parts, index) for index in range(len(case))]
        labels = label_map_of(case, "DICOM")
        mask = segmentation(series, images, case, labels, mask_names(header), places)
        (folder / f"{name}_mask.dcm").write_bytes(mask)
    return files


def storable(image: npt.NDArray[Any], intensity: Intensity, where: str) -> tuple[npt.NDArray[Any], float, float]:
    """(D, C, H, W) -> (D, H, W) grey or (D, H, W, 3) colour of 8- or 16-bit integers, with slope and intercept.

    Integers are kept as they are, so that physical values are exact; other numbers are spread over 16 bits.
    DataError if the channels are neither one nor three.
    """
    if image.shape[1] == 3:
        colour = image if image.dtype == np.uint8 else eight_bits(image, intensity, where)
        return colour.transpose(0, 2, 3, 1), 1.0, 0.0
    if image.shape[1] != 1:
        raise DataError(f"{where}: has {image.shape[1]} channels; grey (1) or colour (3) can be exported")
    grey = image[:, 0]
    if grey.dtype in (np.uint8, np.int16, np.uint16):
        return grey, intensity.scale, intensity.offset
    low, high = float(grey.min()), float(grey.max())
    if grey.dtype.kind in "iu":
        for kind in (np.int16, np.uint16):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return grey.astype(kind), intensity.scale, intensity.offset
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{where}: has values that are not finite")
    step = (high - low) / 65535 or 1.0
    spread = np.rint((grey.astype(np.float64) - low) / step).astype(np.uint16)
    return spread, step * intensity.scale, low * intensity.scale + intensity.offset


def _series(case: Case, header: SetHeader, intensity: Intensity) -> Dataset:
    """What all images of the series share."""
    modality = _modality(case, intensity)
    placed = UNPLACED not in case.flaws
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    # A class other than secondary capture must state positions.
    classes = {"CT": uid.CTImageStorage, "MR": uid.MRImageStorage} if placed else {}
    dataset.SOPClassUID = classes.get(modality, uid.SecondaryCaptureImageStorage)
    dataset.Modality = modality
    dataset.ImageType = ["DERIVED", "SECONDARY", *_IMAGE_TYPES.get(modality, ())]
    dataset.ContentQualification = "RESEARCH"
    dataset.PatientName = f"{'SYNTHETIC' if case.synthetic else 'DERIVED'}^{case.id[:40]}"
    dataset.PatientID = case.id[:64]
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Made anew without any attribute of a source file"
    for name in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID"):
        setattr(dataset, name, "")
    dataset.AccessionNumber = dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber = "1"
    dataset.Manufacturer = "medgen"
    dataset.BurnedInAnnotation = "NO"
    if case.synthetic:
        dataset.SyntheticData = "YES"
    dataset.DerivationDescription = f"medgen {header.provenance.steps[-1].command}, provenance {header.provenance.id}"
    dataset.SliceThickness = decimal(case.thickness or case.spacing[0])
    if placed and not case.origins:
        dataset.SpacingBetweenSlices = decimal(case.spacing[0])
    if modality == "CT":
        dataset.KVP = ""
        dataset.AcquisitionNumber = ""
    elif modality == "MR":
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
        dataset.MRAcquisitionType, dataset.EchoTime, dataset.EchoTrainLength = "2D", None, None
        dataset.RepetitionTime = None
    if modality in classes:
        dataset.PatientPosition = ""
    else:
        dataset.ConversionType = "WSD"
    if not placed:
        dataset.PatientOrientation = ""
        if case.spacing[1:] != (1.0, 1.0):  # which stands for one that is not known
            dataset.PixelSpacing = [decimal(value) for value in case.spacing[1:]]
    return dataset


def _unit(intensity: Intensity, modality: str) -> str:
    """The rescale type. CT of an unspecified one (US) is read as HU, so what is not is called by its name."""
    if intensity.unit == "HU" or modality != "CT":
        return "HU" if intensity.unit == "HU" else "US"
    return intensity.unit.upper() or "RELATIVE"


def _comment(case: Case, index: int) -> str:
    how = describe(case.synthetic) or "Image derived by resampling"
    if case.filled and case.filled[index]:
        how += ", interpolated between its neighbours, not measured"
    return f"{how}; for research only, not for diagnosis"


def _modality(case: Case, intensity: Intensity) -> str:
    """DICOM modality: CT for HU, MR where the case says so, otherwise OT (other)."""
    said = case.modality[0].upper() if case.modality else ""
    colour = case["image"].shape[1] == 3
    if not colour and (intensity.unit == "HU" or said == "CT"):
        return "CT"
    return "MR" if not colour and said.startswith("MR") else "OT"
