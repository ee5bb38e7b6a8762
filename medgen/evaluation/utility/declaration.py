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
    "Utility asks whether the images help to train a segmenter: on the same real pairs alone, mixed with them, after "
    "them, and mixed with copies of the real pairs, in equal numbers of steps and over several seeds, it compares the "
    "Dice on real pairs that were held out (val and test). It takes minutes, so it must be named in --metrics.",
    PAIRS,
    UtilityOptions,
    unasked=lambda inputs: False,
)
