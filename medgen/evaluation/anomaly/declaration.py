"""What the metric of anomaly maps needs, and its options."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from medgen.config import Options, option
from medgen.evaluation.declaration import Metric, Need


class AnomalyEvaluationOptions(Options, frozen=True):
    """How anomaly maps and scores are compared with the truth."""

    normal: str = "normal"
    """The label of normal images; for labels without names, their number."""
    fit_split: Literal["train", "val", "test"] = "val"
    """Its normal images are used to fit the threshold, unless --reference gives others."""
    false_positive_rate: Annotated[
        float,
        option(
            "Share of the pixels of held-out normal images that an anomaly threshold marks.",
            metavar="F",
            group="Anomaly maps",
            gt=0,
            lt=1,
        ),
    ] = 0.01
    lesion_overlap: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """Share of a lesion's pixels that must be marked for it to be found."""


ANOMALY = Metric(
    "anomaly",
    "Anomaly compares the maps and scores of anomaly-map with masks and labels. Its baselines are --vae and the "
    "nearest image of --training. The threshold is fitted on the normal images of the validation split, or of a "
    "--reference of maps.",
    (
        Need(lambda inputs: inputs.stored.header.kind == "map", "needs anomaly maps: make them with anomaly-map"),
        Need(
            lambda inputs: inputs.stored.has("label") or inputs.stored.has("mask"),
            "needs labels or masks to compare the maps with: preprocess with --labels or --masks",
        ),
    ),
    ("vae", "training", "reference"),
    AnomalyEvaluationOptions,
    alone=True,  # a VAE and training images are given for its baselines
)
