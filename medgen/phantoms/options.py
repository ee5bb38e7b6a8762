"""What can be asked of a phantom."""

from __future__ import annotations

from typing import Annotated

import msgspec

from medgen.config import Options
from medgen.errors import ConfigError

Positive = Annotated[float, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=20)]


class PhantomOptions(Options, frozen=True):
    """What every kind has."""

    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


class ChestCTOptions(PhantomOptions, frozen=True):
    """A chest CT; lengths in mm."""

    size: Annotated[int, msgspec.Meta(ge=16, le=2048)] = 512
    slices: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 24
    thickness: Positive = 5.0
    spacing: Positive | None = None  # from slice to slice; None: the thickness
    nodules: tuple[Count, Count] = (1, 3)  # fewest and most in a case that is not healthy
    diameter: tuple[Positive, Positive] = (6.0, 30.0)
    healthy_fraction: Fraction = 0.2  # of cases
    scout_fraction: Fraction = 0.1  # of cases whose archive also holds a localizer, a series of one image

    def __post_init__(self) -> None:
        """Ranges that contradict themselves are errors."""
        for name in ("nodules", "diameter"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"{name}: {low:g},{high:g} is not a range; give the smaller number first")

    @property
    def step(self) -> float:
        """From slice to slice, in mm."""
        return self.thickness if self.spacing is None else self.spacing
