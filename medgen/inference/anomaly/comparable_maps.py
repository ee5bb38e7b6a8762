"""Maps of other normal versions of the same images, made as the maps of a set were, so that they can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from medgen.artifacts.schema import SetHeader
from medgen.config import convert
from medgen.inference.anomaly.calibration import Maps, Place, calibrate
from medgen.inference.anomaly.maps import CALIBRATED_NOTE, NOTE, SCORE_NOTE, MapMaker
from medgen.inference.anomaly.options import AnomalyOptions


@dataclass(frozen=True)
class ComparableMaps:
    """From images and normal versions of them, (B, C, H, W) in [-1, 1], to maps (B, 4, H, W) and scores (B,)."""

    maker: MapMaker
    calibrated: bool
    """Whether the maps of the set are deviations from those of normal images."""

    @staticmethod
    def like(header: SetHeader) -> ComparableMaps | None:
        """A maker like the one of that set's maps; None if it holds none."""
        if header.kind != "map" or NOTE not in header.notes:
            return None
        made = {**json.loads(header.notes[NOTE]), **json.loads(header.notes.get(SCORE_NOTE, "{}"))}
        calibrated = header.notes.get(CALIBRATED_NOTE)
        if calibrated:
            made["calibration"] = json.loads(calibrated)
        options = convert(AnomalyOptions, made, "how the maps of the set were made")
        return ComparableMaps(MapMaker(options), bool(calibrated))

    def __call__(self, images: Maps, versions: Maps, places: Sequence[Place]) -> tuple[Maps, Maps]:
        """The maps and the scores of slices of one case."""
        return self.maker(images, versions, places)

    def calibrated_by(self, normal: Iterable[tuple[Sequence[Place], Maps]]) -> ComparableMaps:
        """The same, in deviations from maps (B, 4, H, W) of normal slices, which are compared with the others."""
        options = self.maker.options
        return replace(self, maker=MapMaker(options, calibrate(normal, options.calibration)))
