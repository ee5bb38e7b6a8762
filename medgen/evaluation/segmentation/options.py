"""Options of the segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import replace

from medgen.config import Options
from medgen.errors import ConfigError

Flips = Literal["none", "left-right", "up-down", "both"]
UPRIGHT: dict[Flips, Flips] = {"left-right": "none", "both": "up-down"}
"""What is left of flips without those from left to right."""
GROUP = 4
"""Channels that the segmenter normalises together."""


class SegmenterOptions(Options, frozen=True):
    """The segmenter and its training."""

    side: Annotated[int, Meta(ge=16, le=1024)] = 64
    """Longest side in pixels at which it sees images; larger ones are averaged down to it."""
    width: Annotated[int, Meta(ge=GROUP)] = 8
    """Channels of its finest level."""
    steps: Annotated[int, Meta(ge=10)] = 400
    batch_size: Annotated[int, Meta(ge=1)] = 4
    learning_rate: Annotated[float, Meta(gt=0)] = 4e-3
    """The highest rate; it rises over a tenth of the steps and then falls to 0."""
    flips: Flips = "left-right"
    """Mirrored views, as likely as the image itself; none to the other side where classes are named by theirs."""
    rotation: Annotated[float, Meta(ge=0, le=180)] = 10.0
    """Largest rotation, in degrees."""
    scale: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Largest change of size, as a share."""
    shift: Annotated[float, Meta(ge=0, lt=1)] = 0.05
    """Largest shift, as a share of the side."""
    gain: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Largest change of contrast and brightness, as a share of the range."""

    def __post_init__(self) -> None:
        """Check that the normalisation layers can take this width."""
        if self.width % GROUP:
            raise ConfigError(f"width = {self.width}: expected a multiple of {GROUP}")

    def suited_to(self, classes: Sequence[str]) -> SegmenterOptions:
        """For masks of these classes: mirrored, a left lung would be a right one that is still called left."""
        from medgen.artifacts.label_maps import sided

        return replace(self, flips=UPRIGHT.get(self.flips, self.flips)) if sided(classes) else self
