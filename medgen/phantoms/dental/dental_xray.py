"""`phantom dental`: panoramic X-rays of teeth and jaws as DICOM, with lesions, labels and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medgen.imaging.writing.png import save_png
from medgen.phantoms.dental.dentition import Dentition
from medgen.phantoms.dental.files import Maker, image_file
from medgen.phantoms.dental.jaws import Jaws
from medgen.phantoms.dental.lesions import Lesion, add_lesion
from medgen.phantoms.dental.painting import paint_tooth
from medgen.phantoms.dental.view import Attenuations, Positioning
from medgen.phantoms.options import DentalOptions
from medgen.phantoms.pictures import BOX_FIELDS, NORMAL, Rows, box
from medgen.phantoms.primitives import Floats
from medgen.phantoms.xray_detector import XrayDetector

LABEL_FIELDS = ("case", "label", "abnormal", "lesions")
LESION_FIELDS = ("case", "lesion", "kind", "tooth", *BOX_FIELDS)
TABLES = {"labels.csv": LABEL_FIELDS, "lesions.csv": LESION_FIELDS}
FOLDERS = ("dicom", "masks")


@dataclass(frozen=True)
class Panoramic:
    """One X-ray: grey values (H, W) in [0, 1], dense is bright, and its lesions."""

    image: Floats
    lesions: tuple[Lesion, ...]
    kind: str  # of the lesions, or "normal"
    pixel: float  # mm
    view: str

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Pixels (H, W) of any lesion."""
        total = np.zeros(self.image.shape, bool)
        for lesion in self.lesions:
            total |= lesion.mask
        return total


def draw(options: DentalOptions, index: int) -> Panoramic:
    """X-ray number `index`; with other lesions or none, the same options give the same person and exposure."""
    build, ill, exposure = (np.random.default_rng([options.seed, index, part]) for part in range(3))
    positioning = Positioning.draw(build)
    dentition = Dentition.draw(build)
    jaws = Jaws.draw(build)
    detector = XrayDetector.draw(exposure)
    picture = Attenuations.empty(options.size, options.view, positioning)
    picture.net = jaws.trabeculae(picture)
    jaws.paint(picture, dentition.crests)
    for tooth in dentition.present:
        paint_tooth(picture, tooth)
    kind = NORMAL
    lesions: list[Lesion] = []
    if ill.random() >= options.healthy_fraction:
        order = [str(name) for name in ill.permutation(options.lesions)]
        wanted = int(ill.integers(options.count[0], options.count[1] + 1))
        for kind in order:  # the first kind that this person has a place for
            for _ in range(wanted):
                severity = float(ill.uniform(*options.severity))
                found = add_lesion(ill, kind, picture, dentition, severity, {lesion.tooth for lesion in lesions})
                lesions += [found] if found else []
            if lesions:
                break
        kind = kind if lesions else NORMAL
    image = detector.expose(exposure, picture.total, picture.pixel)
    return Panoramic(image, tuple(lesions), kind, picture.pixel, options.view)


def write_case(options: DentalOptions, index: int, folder: Path) -> Rows:
    """Write `dicom/case-<index>.dcm` and its mask into `folder`; the rows it adds to each of `TABLES`."""
    name = f"case-{index:04d}"
    panoramic = draw(options, index)
    tagging = np.random.default_rng([options.seed, index, 3])
    content = image_file(
        tagging,
        Maker.draw(tagging),
        f"PHANTOM-{index:04d}",
        ("dental", options.seed, index, options.size, options.view),
        panoramic.image,
        panoramic.pixel,
    )
    (folder / "dicom" / f"{name}.dcm").write_bytes(content)
    save_png(folder / "masks" / f"{name}.png", panoramic.mask.astype(np.uint8) * 255)
    return {
        "labels.csv": [(name, panoramic.kind, int(panoramic.kind != NORMAL), len(panoramic.lesions))],
        "lesions.csv": [
            (name, number, lesion.kind, lesion.tooth, *box(lesion.mask))
            for number, lesion in enumerate(panoramic.lesions)
        ],
    }
