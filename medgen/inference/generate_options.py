"""Options of `medgen generate`."""

from __future__ import annotations

from typing import Annotated, Literal

from medgen.config import SEED, option
from medgen.diffusion.options import SAMPLING, GuidanceShape, SamplingOptions
from medgen.errors import ConfigError
from medgen.models.options import COMPUTING, EMA, PRECISION
from medgen.nets.options import Precision

DEFAULT_GUIDANCE = 2.0
"""Scale for models that do not say theirs."""


class GenerateOptions(SamplingOptions, frozen=True):
    """How `generate` samples. The batch size does not change the result beyond rounding."""

    guidance: (
        Annotated[
            float,
            option(
                "Scale of guidance; 1 is none.",
                metavar="S",
                group=SAMPLING,
                default=f"the best found in training, or {DEFAULT_GUIDANCE:g}",
                ge=0,
            ),
        ]
        | None
    ) = None
    guidance_shape: Annotated[
        GuidanceShape,
        option(
            "How the scale changes from noise to data; or two noise levels between which guidance is on.",
            metavar="constant|linear|cosine|interval|LOW,HIGH",
            group=SAMPLING,
        ),
    ] = "constant"
    guidance_rescale: Annotated[
        float, option("Rescaling against over-exposure by guidance.", metavar="PHI", group=SAMPLING, ge=0, le=1)
    ] = 0.0
    seed: Annotated[int, SEED] = 0
    ema: Annotated[bool, EMA] = True
    precision: Annotated[Precision, PRECISION] = "auto"
    batch_size: Annotated[int, option("Samples at once.", group=COMPUTING, ge=1)] = 16
    split_name: Annotated[
        Literal["", "train", "val", "test"], option("Put the samples into this split.", default="none")
    ] = ""
    """Without a split, no training uses the samples unless asked to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.guidance_shape, tuple) and not 0 <= self.guidance_shape[0] < self.guidance_shape[1] <= 1:
            raise ConfigError(
                "guidance_shape: noise levels are two rising numbers from 0 (data) to 1 (noise), such as 0.2, 0.8"
            )
