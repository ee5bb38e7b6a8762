"""How different scanners write the same slices: the tagging habits that a DICOM reader has to cope with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset

from medgen.imaging.writing.dicom_parts import decimal, derived_uid, encode, set_pixels, set_plane
from medgen.phantoms.primitives import Floats

Stored = npt.NDArray[np.int16] | npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Vendor:
    """A made-up maker. HU = stored * slope + intercept; `padding` is the stored value outside the field of view."""

    name: str
    model: str
    signed: bool
    bits: int
    intercept: float
    slope: float
    padding: int | None
    syntaxes: tuple[str, ...]

    def stored(self, image: Floats, outside: npt.NDArray[np.bool_]) -> Stored:
        """HU -> stored values, with padding where `outside`."""
        kind = np.int16 if self.signed else np.uint16
        low, high = (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) if self.signed else (0, (1 << self.bits) - 1)
        values = np.rint((np.clip(image, -1024.0, 3071.0) - self.intercept) / self.slope)
        values = np.clip(values, low, high).astype(kind)
        if self.padding is not None:
            values[outside] = self.padding
        return cast(Stored, values)


PLAIN = (uid.ExplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)
VENDORS = (
    Vendor("Northlight", "Aurora 64", True, 16, -1024.0, 1.0, -2000, (*PLAIN, uid.JPEG2000Lossless)),
    Vendor("Northlight", "Aurora 16", True, 16, -1024.0, 1.0, -2000, (uid.ExplicitVRLittleEndian,)),
    Vendor("Meridian", "M40", False, 12, -1024.0, 1.0, None, (*PLAIN, uid.JPEGLSLossless)),
    Vendor(
        "Meridian", "M128", False, 16, -8192.0, 1.0, 0, (uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian)
    ),
    Vendor("Castor", "One", True, 16, 0.0, 1.0, -2048, (*PLAIN, uid.RLELossless)),
    Vendor("Castor", "Duo", True, 16, 0.0, 1.0, None, (uid.ImplicitVRLittleEndian,)),
    Vendor("Pelican", "Fine", False, 16, -1024.0, 0.5, None, (uid.ExplicitVRLittleEndian, uid.JPEGLSLossless)),
    Vendor("Pelican", "Broad", False, 16, -1024.0, 1.0, 63536, (uid.ExplicitVRLittleEndian, uid.RLELossless)),
)
NUMBERING = ("ascending", "descending", "shuffled", "absent")
NAMING = ("numbered", "uid", "bare", "folders")


@dataclass(frozen=True)
class Habits:
    """One site's habits with its files."""

    vendor: Vendor
    syntax: str
    numbering: str
    naming: str
    terse: bool  # omits what the standard allows it to omit
    scout: bool  # a localizer is included

    @staticmethod
    def draw(rng: np.random.Generator, scout_fraction: float = 0.0) -> Habits:
        """A random site."""
        vendor = VENDORS[rng.integers(len(VENDORS))]
        return Habits(
            vendor=vendor,
            syntax=str(vendor.syntaxes[rng.integers(len(vendor.syntaxes))]),
            numbering=NUMBERING[rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])],
            naming=NAMING[rng.integers(4)],
            terse=bool(rng.random() < 0.3),
            scout=bool(rng.random() < scout_fraction),
        )


@dataclass(frozen=True)
class Placement:
    """Where the slices are: centre of the first pixel of the lowest slice, and distances, all in mm (LPS)."""

    origin: tuple[float, float, float]
    pixel: float
    step: float
    thickness: float


def study_files(
    rng: np.random.Generator,
    habits: Habits,
    patient: str,
    seed_parts: Sequence[object],
    frame_parts: Sequence[object],
    stacks: Sequence[tuple[Floats, Placement]],
) -> list[tuple[str, bytes]]:
    """(name, content) of each file of a study of one or more series, in the order in which they lie in the archive.

    All series share the study and the frame of reference, whose UIDs depend on `seed_parts` and `frame_parts` alone.
    """
    total = sum(len(images) for images, _ in stacks)
    orders = [_numbers(rng, habits, len(images)) for images, _ in stacks]
    study = _study(rng, habits, patient, seed_parts, frame_parts)
    size = stacks[0][0].shape[1]
    grid = (np.arange(size) + 0.5) / size * 2.0 - 1.0
    outside = grid[:, None] ** 2 + grid[None, :] ** 2 > 1.0
    labels = iter(rng.permutation(total) if habits.naming != "numbered" else np.arange(total))
    files = []
    for series, ((images, place), numbers) in enumerate(zip(stacks, orders, strict=True)):
        parts = (*seed_parts, series) if series else seed_parts
        for index, image in enumerate(images):
            dataset = _slice(study, habits, parts, index, numbers[index], place)
            dataset.SeriesNumber = str(series + 2)
            set_pixels(dataset, habits.vendor.stored(image, outside), bits=habits.vendor.bits)
            files.append((_name(habits, int(next(labels)), dataset), encode(dataset, habits.syntax)))
    if habits.scout:
        scout = _scout(study, habits, seed_parts, *stacks[0])
        files.append(("SCOUT" if habits.naming == "bare" else "scout/0001.dcm", encode(scout)))
    return [files[int(position)] for position in rng.permutation(len(files))]


def _numbers(rng: np.random.Generator, habits: Habits, count: int) -> list[int]:
    """InstanceNumbers of slices from the lowest to the highest; 0: none."""
    return {
        "ascending": list(range(1, count + 1)),
        "descending": list(range(count, 0, -1)),
        "shuffled": [int(value) + 1 for value in rng.permutation(count)],
        "absent": [0] * count,
    }[habits.numbering]


def _study(
    rng: np.random.Generator, habits: Habits, patient: str, parts: Sequence[object], frame_parts: Sequence[object]
) -> Dataset:
    dataset = Dataset()
    date = f"{rng.integers(2001, 2020)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = uid.CTImageStorage
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = date
    dataset.StudyTime = dataset.ContentTime = f"{rng.integers(7, 19):02d}{rng.integers(0, 60):02d}00"
    dataset.AccessionNumber = ""
    dataset.Modality = "CT"
    dataset.Manufacturer = habits.vendor.name
    dataset.ReferringPhysicianName = ""
    dataset.PatientName = patient.replace("-", "^")
    dataset.PatientID = patient
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.StudyInstanceUID = derived_uid("study", *parts)
    dataset.FrameOfReferenceUID = derived_uid("frame", *frame_parts)
    dataset.StudyID = "1"
    dataset.PositionReferenceIndicator = ""
    if not habits.terse:
        dataset.StudyDescription = "CHEST PHANTOM"
        dataset.ManufacturerModelName = habits.vendor.model
        dataset.BodyPartExamined = "CHEST"
        dataset.KVP = str(rng.choice([100, 120, 140]))
        dataset.XRayTubeCurrent = str(rng.integers(60, 400))
        dataset.ConvolutionKernel = str(rng.choice(["SOFT", "STANDARD", "LUNG"]))
        dataset.WindowCenter, dataset.WindowWidth = "-600", "1600"
    else:
        dataset.KVP = ""
    dataset.PatientPosition = "HFS"
    return dataset


def _slice(
    study: Dataset, habits: Habits, parts: Sequence[object], index: int, number: int, place: Placement
) -> Dataset:
    dataset = Dataset(study)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SeriesInstanceUID = derived_uid("series", *parts)
    dataset.SOPInstanceUID = derived_uid("slice", *parts, index)
    dataset.InstanceNumber = str(number) if number else ""
    dataset.AcquisitionNumber = "1"
    x, y, z = place.origin
    set_plane(dataset, (x, y, round(z + index * place.step, 4)), (1, 0, 0), (0, 1, 0), (place.pixel, place.pixel))
    dataset.SliceThickness = decimal(place.thickness)
    if not habits.terse:
        dataset.SliceLocation = decimal(round(z + index * place.step, 4))
    dataset.RescaleIntercept = decimal(habits.vendor.intercept)
    dataset.RescaleSlope = decimal(habits.vendor.slope)
    dataset.RescaleType = "HU"
    if habits.vendor.padding is not None:
        dataset.PixelRepresentation = int(habits.vendor.signed)  # decides whether the padding is SS or US
        dataset.PixelPaddingValue = habits.vendor.padding
    return dataset


def _scout(study: Dataset, habits: Habits, parts: Sequence[object], slices: Floats, place: Placement) -> Dataset:
    """A frontal projection through the stack, as localizers are."""
    dataset = Dataset(study)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dataset.SeriesInstanceUID = derived_uid("scout series", *parts)
    dataset.SeriesNumber = "1"
    dataset.SOPInstanceUID = derived_uid("scout", *parts)
    dataset.InstanceNumber = "1"
    dataset.AcquisitionNumber = "1"
    x, y, z = place.origin
    middle = y + place.pixel * slices[0].shape[0] / 2
    set_plane(
        dataset, (x, middle, z + (len(slices) - 1) * place.step), (1, 0, 0), (0, 0, -1), (place.step, place.pixel)
    )
    dataset.SliceThickness = decimal(place.pixel * slices[0].shape[0])
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "-1024", "1", "HU"
    projection = np.stack([image.mean(axis=0) for image in reversed(slices)])
    set_pixels(dataset, np.clip(np.rint(projection + 1024.0), 0, 4095).astype(np.uint16), bits=12)
    return dataset


def _name(habits: Habits, label: int, dataset: Dataset) -> str:
    return {
        "numbered": f"{label + 1:06d}.dcm",
        "uid": f"{dataset.SOPInstanceUID}.dcm",
        "bare": f"I{label + 10:07d}",
        "folders": f"DICOM/S{dataset.SeriesNumber:05d}/IM{label // 10:02d}/{label:04d}",
    }[habits.naming]
