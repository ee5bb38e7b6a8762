"""Options of train-diffusion, shared by every kind of diffusion model."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from medgen.config import option
from medgen.diffusion.options import Objective, ScheduleConfig, check
from medgen.nets.options import UNetConfig
from medgen.training.data.options import VolumeOptions
from medgen.training.learners.normalizer_options import NormalizerOptions
from medgen.training.loop.options import TrainingOptions


class TrainDiffusionOptions(TrainingOptions, frozen=True):
    """Options of train-diffusion."""

    learner: Annotated[
        Literal["denoiser", "interpolator", "normalizer"],
        option("Learn to denoise, what lies between thick slices, or to make images normal."),
    ] = "denoiser"
    network: UNetConfig = UNetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    objective: Annotated[Objective, option("What the network predicts.")] = "eps"
    min_snr_gamma: Annotated[float, Meta(gt=0)] | None = None
    """Limit of the signal-to-noise ratio in the loss weights; none = every timestep counts alike."""
    condition_dropout: Annotated[
        float,
        option("Share of samples trained without their condition; guidance needs it above 0.", metavar="P", ge=0, le=1),
    ] = 0.3
    init: Annotated[str, option("Begin from this model, of the same kind and shape.", metavar="MODEL")] | None = None
    vae: Annotated[str, option("The VAE, for learners that look through it.", metavar="FILE")] | None = None
    normalizer: NormalizerOptions | None = None
    """Losses of the learner "normalizer"; none = their defaults."""
    volumes: VolumeOptions = VolumeOptions()
    """Training pairs of the interpolator."""

    def __post_init__(self) -> None:
        check(self.objective, self.schedule)
