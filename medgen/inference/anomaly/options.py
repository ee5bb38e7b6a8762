"""Options of `medgen anomaly-map`."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import msgspec

from medgen.config import Options, option
from medgen.errors import ConfigError

MAPS, SCORES, CALIBRATION = "Maps", "Scores", "Calibration"
"""Headings of these options in the help."""
Weight = Annotated[float, msgspec.Meta(ge=0)]


class CalibrationOptions(Options, frozen=True):
    """How mean and spread of normal maps are estimated."""

    split: (
        Annotated[
            Literal["train", "val", "test"],
            option("Split of these normal images.", flag="--calibration-split", group=CALIBRATION),
        ]
        | None
    ) = "val"
    """They should be held out from training, and from the test. None = all."""
    smoothing: Weight = 2.0
    """Standard deviation, in pixels, of the Gaussian that smooths both."""
    shrinkage: Weight = 10.0
    """Number of normal images that the mean over all pixels counts as, against those seen at the pixel."""


class AnomalyOptions(Options, frozen=True):
    """How maps and scores are made. Images are compared in the network's range: the window is [-1, 1]."""

    pixel: Weight = 1.0
    gradient: Weight = 0.5
    laplacian: Weight = 0.3
    blur: Annotated[
        float,
        option("Sigma of a Gaussian blur of both images beforehand; 0: none.", metavar="PIXELS", group=MAPS, ge=0),
    ] = 0.0
    """Removes noise, keeps spots."""
    smoothing: Annotated[
        float, option("Sigma of a Gaussian blur of the maps; 0: none.", metavar="PIXELS", group=MAPS, ge=0)
    ] = 0.0
    foreground: (
        Annotated[
            float,
            option(
                "Leave out pixels below this share of the window.",
                metavar="F",
                group=MAPS,
                default="all counts",
                gt=0,
                lt=1,
            ),
        ]
        | None
    ) = None
    """Maps are 0 below it; holes in what lies above are filled."""
    score: Annotated[
        Literal["top", "quantile", "mean"],
        option(
            "Score of a slice: the mean of its highest map pixels, the lowest of these, or the mean of all pixels.",
            group=SCORES,
        ),
    ] = "top"
    score_share: Annotated[
        float, option("Share of (foreground) pixels that count as the highest.", metavar="F", group=SCORES, gt=0, le=1)
    ] = 0.01
    calibration: CalibrationOptions = CalibrationOptions()

    def __post_init__(self) -> None:
        if not (self.pixel or self.gradient or self.laplacian):
            raise ConfigError("pixel, gradient and laplacian are all 0, so the map would be empty; give one a weight")

    def note(self) -> str:
        """What the values of a map depend on, as JSON."""
        kept = ("pixel", "gradient", "laplacian", "blur", "smoothing", "foreground")
        return json.dumps({name: getattr(self, name) for name in kept})
