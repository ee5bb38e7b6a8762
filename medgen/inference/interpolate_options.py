"""Options of `medgen interpolate`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from medgen.config import SEED, option
from medgen.diffusion.options import SAMPLING, ProfileShape, SamplingOptions
from medgen.imaging.cases.options import SourceOptions
from medgen.models.options import COMPUTING, EMA, PRECISION
from medgen.nets.options import Precision

Consistency = Literal["end", "steps", "none"]


class InterpolateOptions(SamplingOptions, frozen=True):
    """How `interpolate` samples. Lengths in mm; the batch size does not change the result beyond rounding."""

    spacing: Annotated[float, option("Distance between thin slices; required.", metavar="MM", gt=0)] | None = None
    samples: Annotated[
        int, option("Store the mean of N samples, and with two or more their spread.", group=SAMPLING, ge=1)
    ] = 1
    consistency: Annotated[
        Consistency,
        option("Make averages over the profile equal the input: at the end, also at each step, or not at all."),
    ] = "end"
    profile: Annotated[ProfileShape, option("Slice profile of the thick slices.")] = "box"
    thickness: (
        Annotated[
            float,
            option(
                "Thickness of the thick slices, where the input does not state it.",
                metavar="MM",
                default="their distance",
                gt=0,
            ),
        ]
        | None
    ) = None
    window: (
        Annotated[
            tuple[float, float],
            option(
                "Window that the model sees, where values differ from its training images.",
                metavar="LOW,HIGH",
                default="that of the model",
            ),
        ]
        | None
    ) = None
    """Which values the model sees as [-1, 1]."""
    depth: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Thin slices in a window; 0 = as in training."""
    overlap: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.25
    """Share of a window that the next one begins in."""
    batch_size: Annotated[int, option("Windows at once.", group=COMPUTING, ge=1)] = 4
    reading: SourceOptions = SourceOptions()
    """Of an input from files."""
    seed: Annotated[int, SEED] = 0
    ema: Annotated[bool, EMA] = True
    precision: Annotated[Precision, PRECISION] = "auto"
