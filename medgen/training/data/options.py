"""Options of the sources of training batches."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import Options
from medgen.errors import ConfigError

Size = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Range = tuple[Positive, Positive]
Part = Annotated[float, Meta(ge=0, le=1)]


class Balance(Options, frozen=True):
    """Draw a fixed share of the samples from those with a condition on, in training and in validation."""

    field: str
    """Name of the vector field that tells the two groups apart: above 0 or not; mask_area: the share of the pixels that
    belong to a class of the mask."""
    fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.6
    """Share of samples where it is above 0."""
    at_most: Annotated[float, Meta(gt=0)] | None = None
    """The largest value that still counts as above 0, to draw small lesions more often; none = no limit."""


class VolumeOptions(Options, frozen=True):
    """How training pairs of thin and thick slices are made; lengths in mm."""

    depth: Annotated[int, Meta(ge=2)] = 48
    """Thin slices in a window."""
    crop: Size = 0
    """Side in pixels of random crops in plane; 0 = whole slices."""
    thin_limit: Positive = 3.0
    """Cases whose slices are farther apart are not used as targets."""
    coarser: Range = (1.0, 1.0)
    """Spacing of the target over that of the case: above 1, the target is itself averaged from the case's slices."""
    thick_spacing: Range = (3.0, 8.0)
    """Distance of the simulated thick slices, drawn log-uniformly."""
    thickness: Range = (0.5, 1.0)
    """Their thickness over their distance: below 1 leaves gaps, above 1 overlaps."""
    gaussian: Part = 0.5
    """Share of simulated slices with a Gaussian profile instead of a box."""
    paired: Part = 0.5
    """Share of windows taken from the case's thick partner (a series in the same frame of reference) if it has one."""

    def __post_init__(self) -> None:
        for name in ("coarser", "thick_spacing", "thickness"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"volumes.{name}: {low:g}, {high:g} is not a range; give the smaller number first")
        if self.coarser[0] < 1:
            raise ConfigError(f"volumes.coarser = {self.coarser[0]:g}: a target cannot be finer than its case")
