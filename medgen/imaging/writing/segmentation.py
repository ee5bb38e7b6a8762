"""Masks -> DICOM segmentations (SEG): a frame for each class and slice, bound to the images they were drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import SegmentationStorage

from medgen import __version__
from medgen.artifacts.schema import Case
from medgen.artifacts.stacks import Positions
from medgen.imaging.writing.dicom_parts import decimal, derived_uid, encode

_SHARED = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "ReferringPhysicianName"),
    *("AccessionNumber", "FrameOfReferenceUID", "PositionReferenceIndicator", "SyntheticData", "BurnedInAnnotation"),
    *("ContentQualification", "Manufacturer"),
)
_NO_DATE, _NO_TIME = "19000101", "000000"  # which the standard demands; the same masks give the same bytes


def segmentation(
    series: Dataset,
    images: Sequence[str],
    case: Case,
    labels: npt.NDArray[np.uint8],
    names: Sequence[str],
    places: Positions | None,
) -> bytes:
    """The SEG file for `labels` (D, H, W) over `images` (their SOPInstanceUIDs) of a series.

    Segment k is class k. A mask without any class but the background has one empty frame.
    """
    dataset = _header(series, case)
    dataset.SOPInstanceUID = derived_uid("segmentation", series.SeriesInstanceUID)
    dataset.SeriesInstanceUID = derived_uid("segmentations", series.SeriesInstanceUID)
    dataset.ReferencedSeriesSequence = [
        _item(
            SeriesInstanceUID=series.SeriesInstanceUID,
            ReferencedInstanceSequence=[_reference(series, image) for image in images],
        )
    ]
    dataset.SegmentSequence = [_segment(number, name) for number, name in enumerate(names) if number]
    _set_dimensions(dataset)
    dataset.SharedFunctionalGroupsSequence = [_shared(case, placed=places is not None)]
    shown = [
        (number, index)
        for number in range(1, len(names))
        for index, plane in enumerate(labels)
        if (plane == number).any()
    ] or [(1, 0)]
    dataset.PerFrameFunctionalGroupsSequence = [
        _frame(series, images, number, index, places) for number, index in shown
    ]
    dataset.NumberOfFrames = len(shown)
    dataset.Rows, dataset.Columns = labels.shape[1:]
    planes = np.stack([labels[index] == number for number, index in shown])
    dataset.PixelData = pack_bits(planes.reshape(-1).astype(np.uint8))
    dataset["PixelData"].VR = "OB"
    return encode(dataset)


def _header(series: Dataset, case: Case) -> Dataset:
    dataset = Dataset()
    for keyword in _SHARED:
        if keyword in series:
            setattr(dataset, keyword, series[keyword].value)
    dataset.SOPClassUID = SegmentationStorage
    dataset.Modality = "SEG"
    dataset.SeriesNumber, dataset.InstanceNumber = "2", "1"
    dataset.ManufacturerModelName, dataset.DeviceSerialNumber = "medgen", "0"
    dataset.SoftwareVersions = __version__
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.ContentLabel, dataset.ContentDescription, dataset.ContentCreatorName = "MASK", "", ""
    dataset.ContentDate, dataset.ContentTime = _NO_DATE, _NO_TIME
    dataset.SeriesDescription = f"Mask of {case.id[:40]}"
    dataset.LossyImageCompression = "00"
    dataset.SegmentationType, dataset.SegmentsOverlap = "BINARY", "NO"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = dataset.PixelRepresentation = 0
    return dataset


def _segment(number: int, name: str) -> Dataset:
    tissue = ("85756007", "SCT", "Tissue")  # all that is known of a class without asking what its name means
    return _item(
        SegmentNumber=number,
        SegmentLabel=name[:64],
        SegmentAlgorithmType="SEMIAUTOMATIC",
        SegmentAlgorithmName="medgen",
        SegmentedPropertyCategoryCodeSequence=[_code(*tissue)],
        SegmentedPropertyTypeCodeSequence=[_code(*tissue)],
    )


def _set_dimensions(dataset: Dataset) -> None:
    uid = derived_uid("dimensions", dataset.SOPInstanceUID)
    dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=uid)]
    dataset.DimensionIndexSequence = [
        _item(DimensionOrganizationUID=uid, DimensionIndexPointer=pointer, FunctionalGroupPointer=group)
        for pointer, group in ((0x0062000B, 0x0062000A), (0x00200032, 0x00209113))
    ]


def _shared(case: Case, *, placed: bool) -> Dataset:
    measures = _item(
        SliceThickness=decimal(case.thickness or case.spacing[0]),
        SpacingBetweenSlices=decimal(case.spacing[0]),
        PixelSpacing=[decimal(case.spacing[1]), decimal(case.spacing[2])],
    )
    shared = _item(PixelMeasuresSequence=[measures])
    if placed:
        _, down, across = case.axes
        cosines = [decimal(value) for value in (*across.tolist(), *down.tolist())]
        shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=cosines)]
    return shared


def _frame(series: Dataset, images: Sequence[str], number: int, index: int, places: Positions | None) -> Dataset:
    source = _reference(series, images[index])
    source.SpatialLocationsPreserved = "YES"
    source.PurposeOfReferenceCodeSequence = [_code("121322", "DCM", "Source image for image processing operation")]
    derivation = _item(SourceImageSequence=[source], DerivationCodeSequence=[_code("113076", "DCM", "Segmentation")])
    frame = _item(
        FrameContentSequence=[_item(DimensionIndexValues=[number, index + 1])],
        SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=number)],
        DerivationImageSequence=[derivation],
    )
    if places is not None:
        position = [decimal(value) for value in places[index].tolist()]
        frame.PlanePositionSequence = [_item(ImagePositionPatient=position)]
    return frame


def _reference(series: Dataset, image: str) -> Dataset:
    return _item(ReferencedSOPClassUID=series.SOPClassUID, ReferencedSOPInstanceUID=image)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _item(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made
