"""What memorization needs, and its options."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import Options
from medgen.evaluation.declaration import Metric, Need


class MemorizationOptions(Options, frozen=True):
    """How copies of training images are searched for."""

    candidates: Annotated[int, Meta(ge=1)] = 8
    """Number of training cases, per search method, whose most similar image is aligned to the sample."""
    margin: Annotated[float, Meta(gt=0, le=1)] = 0.9
    """A copy lies below this share of the smallest distance of any held-out image."""
    shift: Annotated[float, Meta(ge=0, le=0.25)] = 0.125
    """Shifts that are tried, up to this share of the side."""
    side: Annotated[int, Meta(ge=16)] = 64
    """Longest side in pixels at which images are aligned."""
    pairs: Annotated[int, Meta(ge=1)] = 12
    """Closest pairs that are shown."""


MEMORIZATION = Metric(
    "memorization",
    "Memorization finds copies: samples closer to an image of --training than any held-out image of --reference is.",
    (
        Need(lambda inputs: inputs.training is not None, "needs what the generator learned from: give --training SET"),
        Need(
            lambda inputs: inputs.reference is not None,
            "needs real images that were held out of training: give --reference SET",
        ),
    ),
    ("training", "reference"),
    MemorizationOptions,
)
