"""Pictures with a label map -> PNG files and tables: shared by all phantoms that are not DICOM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.imaging.writing.png import save_png
from medgen.phantoms.captions import FIELDS, Caption
from medgen.phantoms.primitives import Floats

NORMAL = "normal"
BOX_FIELDS = ("x", "y", "width", "height", "area")
FOLDERS = ("images", "masks")
TABLES = {
    "labels.csv": ("path", "patient", "label", "text", "modality"),
    "truth.csv": ("path", *FIELDS),
    "findings.csv": ("path", "kind", *BOX_FIELDS),
}
LEAST = 256  # smaller pictures are drawn at no fewer rows and columns

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Rows = dict[str, list[tuple[object, ...]]]
"""Rows of the tables, by their file names."""


@dataclass(frozen=True)
class ShownFinding:
    """One lesion in a picture."""

    kind: str
    mask: Mask  # (H, W)


@dataclass(frozen=True)
class LabelledPicture:
    """A camera's or scanner's picture of a case, and the truth about it."""

    image: Floats  # (H, W) or (H, W, 3) in [0, 1]
    labels: Labels  # (H, W), the class of each pixel
    findings: tuple[ShownFinding, ...]
    label: str
    caption: Caption

    def write(self, patient: int, index: int, folder: Path) -> Rows:
        """Write image and mask number `index` into `folder`; the rows it adds to each of `TABLES`."""
        name = f"patient-{patient:04d}_{index:05d}.png"
        save_png(folder / "images" / name, np.rint(np.clip(self.image, 0.0, 1.0) * 255.0).astype(np.uint8))
        save_png(folder / "masks" / name, self.labels)
        path, caption = f"images/{name}", self.caption
        return {
            "labels.csv": [(path, f"patient-{patient:04d}", self.label, caption.text, caption.modality)],
            "truth.csv": [(path, *caption.row)],
            "findings.csv": [(path, finding.kind, *box(finding.mask)) for finding in self.findings],
        }


def graded(rng: np.random.Generator, severity: tuple[float, float], mildest: float, worst: float) -> float:
    """A measure of a lesion of random severity, between its values at severity 0 and 1."""
    return mildest + (worst - mildest) * rng.uniform(*severity)


def drawn_at(size: int) -> int:
    """Rows and columns to draw at, a multiple of those requested: edges and lines are then scaled down as by a lens."""
    return size * max(1, -(-LEAST // size))


def shrink(picture: Floats, size: int) -> Floats:
    """(H, W, ...) -> (size, size, ...), the mean of each block."""
    block = len(picture) // size
    if block == 1:
        return picture
    blocks: Floats = picture.reshape(size, block, size, block, *picture.shape[2:]).mean(axis=(1, 3))
    return blocks


def box(mask: Mask) -> tuple[str, ...]:
    """Middle and size of a mask's box, and its area, as fractions of the image."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0] / height, (rows[-1] + 1) / height, columns[0] / width, (columns[-1] + 1) / width
    numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, mask.mean())
    return tuple(f"{value:.6f}" for value in numbers)


def tint(image: Floats, colour: npt.ArrayLike, alpha: npt.NDArray[Any]) -> None:
    """Mix a colour into `image` (H, W, 3) in place, with weight `alpha` (H, W)."""
    image += (np.asarray(colour, np.float32) - image) * alpha[..., None]
