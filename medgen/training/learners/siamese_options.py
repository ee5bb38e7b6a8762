"""Weights of the two branches' losses."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import Options
from medgen.errors import ConfigError
from medgen.training.loop.options import Weight

Share = Annotated[float, Meta(ge=0, le=1)]


class SiameseLosses(Options, frozen=True):
    """Weight of each term; the image branch is not run if all but the mask branch's term are 0."""

    mask: Weight = 1.0
    """Error of the mask branch."""
    image: Weight = 1.0
    """Error of the image branch."""
    consistency: Weight = 1.0
    """Distance of the mask branch from the image branch, which does not learn from this term."""
    augmentation: Weight = 1.0
    """Error of the mask branch on an image estimated by the image branch."""
    augmentation_from: Share = 1 / 3
    """Share of all steps after which that term starts."""
    augmentation_time: Share = 0.2
    """Share of all times, from the data end, at which it counts: at later times the estimate is worth little."""

    def __post_init__(self) -> None:
        if not self.mask:
            raise ConfigError("losses.mask is 0, and the mask branch is what sampling runs; give it a weight")

    @property
    def sees_image(self) -> bool:
        """Whether a term needs the image branch."""
        return any((self.image, self.consistency, self.augmentation))
