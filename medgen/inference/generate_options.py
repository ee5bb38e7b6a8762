"""Options of `medgen generate`."""

from __future__ import annotations

from typing import Annotated, Literal

from medgen.config import SEED, option
from medgen.diffusion.options import SAMPLING, SamplingOptions
from medgen.models.options import COMPUTING, EMA, PRECISION
from medgen.nets.options import Precision


class GenerateOptions(SamplingOptions, frozen=True):
    """How `generate` samples. The batch size does not change the result beyond rounding."""

    guidance: Annotated[float, option("Scale of guidance; 1 is none.", metavar="S", group=SAMPLING, ge=0)] = 2.0
    guidance_rescale: Annotated[
        float, option("Against over-exposure by guidance.", metavar="PHI", group=SAMPLING, ge=0, le=1)
    ] = 0.0
    seed: Annotated[int, SEED] = 0
    ema: Annotated[bool, EMA] = True
    precision: Annotated[Precision, PRECISION] = "auto"
    batch_size: Annotated[int, option("Samples at once.", group=COMPUTING, ge=1)] = 16
    split_name: Annotated[
        Literal["", "train", "val", "test"], option("Put the samples into this split.", default="none")
    ] = ""
    """Without a split, no training uses the samples unless asked to."""
