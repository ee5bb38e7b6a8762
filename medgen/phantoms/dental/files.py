"""A panoramic X-ray as DICOM, in the style of different makers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from medgen.imaging.writing.dicom_parts import decimal, derived_uid, encode, set_pixels
from medgen.phantoms.primitives import Floats


@dataclass(frozen=True)
class Maker:
    """A made-up maker of panoramic machines, and its habits."""

    name: str
    model: str
    modality: str
    bits: int
    inverted: bool  # MONOCHROME1: zero in the file is shown white
    syntaxes: tuple[str, ...]

    @staticmethod
    def draw(rng: np.random.Generator) -> Maker:
        """A random maker."""
        return MAKERS[int(rng.integers(len(MAKERS)))]


MAKERS = (
    Maker("Ivory", "Pan 8", "PX", 8, False, (uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless)),
    Maker("Ivory", "Pan 12", "PX", 12, False, (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)),
    Maker("Orbis", "Arc", "DX", 12, True, (uid.ExplicitVRLittleEndian, uid.JPEGLSLossless)),
    Maker("Orbis", "Arc Plus", "PX", 14, True, (uid.ExplicitVRLittleEndian,)),
    Maker("Molaris", "View", "PX", 16, False, (uid.ExplicitVRLittleEndian, uid.RLELossless)),
    Maker("Molaris", "Film Scan", "DX", 8, True, (uid.ImplicitVRLittleEndian,)),
)


def image_file(
    rng: np.random.Generator, maker: Maker, patient: str, parts: Sequence[object], image: Floats, pixel: float
) -> bytes:
    """The DICOM file of grey values (H, W) in [0, 1]; UIDs depend on `parts` alone."""
    dataset = Dataset()
    date = f"{rng.integers(2005, 2022)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = derived_uid("image", *parts)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = derived_uid("study", *parts), derived_uid("series", *parts)
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = date
    dataset.StudyTime = dataset.ContentTime = f"{rng.integers(8, 18):02d}{rng.integers(0, 60):02d}00"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.Modality = maker.modality
    dataset.Manufacturer, dataset.ManufacturerModelName = maker.name, maker.model
    dataset.PatientName, dataset.PatientID = patient.replace("-", "^"), patient
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", "1", "1"
    dataset.ImageType = ["DERIVED" if maker.model == "Film Scan" else "ORIGINAL", "PRIMARY", ""]
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.BodyPartExamined = "JAW"
    dataset.ImageLaterality = "B"
    dataset.PatientOrientation = ["L", "F"]
    dataset.KVP = decimal(float(rng.integers(62, 80)))
    dataset.ImagerPixelSpacing = [decimal(pixel), decimal(pixel)]
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1 if maker.inverted else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = "INVERSE" if maker.inverted else "IDENTITY"
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "NO"
    highest = (1 << maker.bits) - 1
    values = np.rint(np.clip(image, 0.0, 1.0) * highest)
    stored = highest - values if maker.inverted else values
    set_pixels(dataset, stored.astype(np.uint8 if maker.bits == 8 else np.uint16), bits=maker.bits)
    dataset.PhotometricInterpretation = "MONOCHROME1" if maker.inverted else "MONOCHROME2"
    return encode(dataset, str(maker.syntaxes[int(rng.integers(len(maker.syntaxes)))]))
