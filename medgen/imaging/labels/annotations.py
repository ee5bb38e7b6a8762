"""What is known about slices besides their pixels: vectors, classes, text; by the index in their stack."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from medgen.errors import DataError
from medgen.imaging.geometry import PlaneMap
from medgen.imaging.reading.archive import Entry

NODULE_FIELDS = ("has_nodule", "x", "y", "size", "malignancy", "texture")
RIM = 1e-6  # rounding


@dataclass(frozen=True)
class Finding:
    """The vector of one slice, in fractions of the source image; `box` (width, height) where both sides are known."""

    values: tuple[float, ...]
    box: tuple[float, float] | None = None


@dataclass
class Annotation:
    """All labels of one stack, by slice index."""

    findings: dict[int, Finding] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    modalities: dict[int, str] = field(default_factory=dict)
    patient: str = ""
    split: str = ""
    synthetic: str = ""
    masks: dict[int, Entry] = field(default_factory=dict)
    doubtful: set[int] = field(default_factory=set)
    """Slices on which somebody marked what does not count as a finding, such as a nodule below 3 mm."""

    def ill(self, fields: tuple[str, ...]) -> set[int]:
        """Slices with a finding; a vector of these fields may also say that there is none."""
        at = fields.index("has_nodule") if "has_nodule" in fields else None
        return {index for index, finding in self.findings.items() if at is None or finding.values[at] > 0}


def vector_of(finding: Finding, fields: tuple[str, ...], plane: PlaneMap, where: str) -> npt.NDArray[np.float32]:
    """The vector (K,) after the geometry. DataError if cropping cuts the finding's centre off.

    Without a box, the finding counts as square in pixels, `size` being its side as a fraction of the width.
    """
    values = dict(zip(fields, finding.values, strict=True))
    if values.get("has_nodule", 1.0) > 0:
        if "x" in values and "y" in values:
            values["x"], values["y"] = plane.centre(values["x"], values["y"])
            if not all(-RIM <= values[name] <= 1 + RIM for name in ("x", "y")):
                raise DataError(f"{where}: cropping cuts its finding off; choose a larger --size or no --spacing")
        if "size" in values:
            ratio = plane.x.source / plane.y.source
            box = finding.box or (values["size"], values["size"] * ratio)
            values["size"] = plane.extent(*box)
    return np.clip(np.array([values[name] for name in fields], dtype=np.float32), 0.0, 1.0)
