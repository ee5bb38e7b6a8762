"""Weights of the two branches' losses."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import Options
from medgen.errors import ConfigError
from medgen.training.loop.options import Weight

Share = Annotated[float, Meta(ge=0, le=1)]


class SiameseLosses(Options, frozen=True):
    """Weight of each term; with all but that of the mask at 0 the image branch is not run."""

    mask: Weight = 1.0
    """What the mask branch misses."""
    image: Weight = 1.0
    """What the image branch misses."""
    consistency: Weight = 1.0
    """How far the mask branch is from the image branch, which does not learn from it."""
    augmentation: Weight = 1.0
    """What the mask branch misses of an image as the image branch estimates it."""
    augmentation_from: Share = 1 / 3
    """Share of all steps after which that term begins."""
    augmentation_time: Share = 0.2
    """Share of all times, from the data, at which it counts: later the estimate is of little worth."""

    def __post_init__(self) -> None:
        if not self.mask:
            raise ConfigError("losses.mask is 0, and the mask branch is what sampling runs; give it a weight")

    @property
    def sees_image(self) -> bool:
        """Whether a term needs the image branch."""
        return any((self.image, self.consistency, self.augmentation))
