"""Options of `medgen extract-latents`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from medgen.config import SEED, Options, option
from medgen.models.options import COMPUTING, PRECISION
from medgen.nets.options import Precision


class EncodeOptions(Options, frozen=True):
    """How `extract-latents` encodes. Batch size and read-ahead do not change the result beyond rounding."""

    sample: Annotated[bool, option("Sample the posterior, or take its mean.", flag="--sample/--mean")] = False
    split: (
        Annotated[str, option("Only the cases of this split (train, val, test).", metavar="NAME", default="all")] | None
    ) = None
    precision: Annotated[Precision, PRECISION] = "auto"
    batch_size: Annotated[int, option("Slices at once.", group=COMPUTING, ge=1)] = 8
    seed: Annotated[int, SEED] = 0
    outliers: Annotated[float, msgspec.Meta(ge=0)] = 8.0
    """Robust deviations from the median beyond which a case is reported as an outlier; 0 = report none."""
