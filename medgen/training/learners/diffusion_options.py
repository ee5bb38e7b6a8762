"""Options of train-diffusion, shared by every kind of diffusion model."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from medgen.diffusion.objectives import Objective, check
from medgen.diffusion.schedules import ScheduleConfig
from medgen.nets.unet_config import UNetConfig
from medgen.training.data.volumes import VolumeOptions
from medgen.training.learners.normalizer_options import NormalizerOptions
from medgen.training.loop.options import TrainingOptions


class TrainDiffusionOptions(TrainingOptions, frozen=True):
    """Options of train-diffusion."""

    learner: Literal["denoiser", "interpolator", "normalizer"] = "denoiser"
    """What is learned: to denoise images or latents, what lies between thick slices, or to make images normal."""
    network: UNetConfig = UNetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    objective: Objective = "eps"
    """What the network predicts."""
    min_snr_gamma: Annotated[float, Meta(gt=0)] | None = None
    """Limit of the signal-to-noise ratio in the loss weights; none = every timestep counts alike."""
    condition_dropout: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Probability, for each sample, that it is trained without its condition; guidance needs it above 0."""
    init: str | None = None
    """A model of the same kind and shape to begin from."""
    vae: str | None = None
    """The VAE through which a learner sees images; the denoiser needs none."""
    normalizer: NormalizerOptions | None = None
    """Losses of the learner "normalizer"; none = their defaults."""
    volumes: VolumeOptions = VolumeOptions()
    """Training pairs of the interpolator."""

    def __post_init__(self) -> None:
        check(self.objective, self.schedule)
