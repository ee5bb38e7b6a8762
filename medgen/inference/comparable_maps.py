"""Maps of other normal versions of the same images, made as the maps of a set were, so that they can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import Array, SetHeader
from medgen.config import convert
from medgen.inference.anomaly import (
    NOTE,
    SCORE_NOTE,
    AnomalyOptions,
    Calibration,
    CalibrationOptions,
    calibrate,
    difference_maps,
    foreground,
    score,
)

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ComparableMaps:
    """From images and normal versions of them, (B, C, H, W) in [-1, 1], to maps (B, 4, H, W) and scores (B,)."""

    options: AnomalyOptions
    calibrated: bool
    """Whether the maps of the set are deviations from those of normal images."""
    calibration: Calibration | None = None

    @staticmethod
    def like(header: SetHeader) -> ComparableMaps | None:
        """As the maps of that set were made; None if it holds none."""
        if header.kind != "map" or NOTE not in header.notes:
            return None
        made = {**json.loads(header.notes[NOTE]), **json.loads(header.notes.get(SCORE_NOTE, "{}"))}
        options = convert(AnomalyOptions, made, "how the maps of the set were made")
        return ComparableMaps(options, "calibrated" in header.notes)

    def __call__(self, images: Images, versions: Images) -> tuple[Images, Images]:
        """The maps and the scores."""
        inside = foreground(images, self.options.foreground)
        maps = difference_maps(images, versions, self.options)
        if self.calibration is not None:
            maps = self.calibration.deviations(maps, "of the baseline")
        maps *= inside
        scores = [score(total[here], self.options) for total, here in zip(maps[:, 3], inside[:, 0], strict=True)]
        return maps, np.array(scores, np.float32)

    def calibrated_by(self, normal: Iterable[Array]) -> ComparableMaps:
        """The same in deviations from the maps (B, 4, H, W) of normal images."""
        return replace(self, calibration=calibrate(normal, CalibrationOptions()))
