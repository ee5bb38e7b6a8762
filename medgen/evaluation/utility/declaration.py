"""What utility needs, and its options."""

from __future__ import annotations

from typing import Annotated

from medgen.config import Options, option
from medgen.errors import ConfigError
from medgen.evaluation.declaration import Metric
from medgen.evaluation.segmentation.needs import PAIRS
from medgen.evaluation.segmentation.options import SegmenterOptions


class UtilityOptions(Options, frozen=True):
    """How much synthetic pairs help a segmenter."""

    seeds: Annotated[
        int,
        option(
            "Segmenters trained in each arm of utility, at least 2.",
            flag="--utility-seeds",
            metavar="N",
            group="Utility",
        ),
    ] = 5
    segmenter: SegmenterOptions = SegmenterOptions()

    def __post_init__(self) -> None:
        """A single segmenter cannot tell a gain from luck."""
        if self.seeds < 2:
            raise ConfigError(f"seeds = {self.seeds}: one training cannot tell a gain from luck; give 2 or more")


UTILITY = Metric(
    "utility",
    "Utility asks whether the images help to train a segmenter. It trains on the real pairs alone, mixed with the "
    "images, after the images, and mixed with copies of the real pairs, for equal numbers of steps and over several "
    "seeds. It compares the Dice on held-out real pairs (val and test). It takes minutes, so --metrics must name it.",
    PAIRS,
    ("reference", "training"),
    UtilityOptions,
    unasked=lambda inputs: False,
)
