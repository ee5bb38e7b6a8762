"""Train the denoiser: a diffusion model of latents or of images, under a condition vector where the set has one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from msgspec.structs import replace
from torch import Tensor

from medgen.artifacts.model_facts import DenoiserFacts
from medgen.artifacts.schema import Intensity
from medgen.diffusion.objectives import Objective, check, diffusion_loss
from medgen.diffusion.schedules import Schedule, ScheduleConfig
from medgen.errors import DataError
from medgen.nets.unet import UNet, UNetConfig
from medgen.training.data import common_spacing, stored_type
from medgen.training.init import read_model
from medgen.training.learner import Learner, Parts
from medgen.training.options import TrainingOptions
from medgen.training.run import Run, start
from medgen.training.step import Batch, Step, seeded


class TrainDiffusionOptions(TrainingOptions, frozen=True):
    """Options of train-diffusion."""

    network: UNetConfig = UNetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    objective: Objective = "eps"
    """What the network predicts."""
    min_snr_gamma: Annotated[float, Meta(gt=0)] | None = None
    """Limit of the signal-to-noise ratio in the loss weights; none = every timestep counts alike."""
    condition_dropout: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Probability, for each sample, that it is trained without its condition; guidance needs it above 0."""
    init: str | None = None
    """A denoiser of the same shape to begin from."""

    def __post_init__(self) -> None:
        check(self.objective, self.schedule)


class DenoiserLearner(Learner):
    """Weighted error of what the network predicts of noisy data."""

    model: UNet

    def __init__(self, options: TrainDiffusionOptions) -> None:
        self.options = options
        self.schedule = Schedule(options.schedule)
        with seeded(options.seed, "weights"):
            self.model = UNet(options.network)

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        """Mean error over x0 (B, C, H, W), each sample at a time, with noise and with or without its condition."""
        options, x0 = self.options, batch["x"]
        t = step.own(self.schedule.sample_times(step.total, step.generator("time"))).to(x0.device)
        noise = step.noise(x0)
        output = self.model(
            self.schedule.add_noise(x0, noise, t), t, vector=batch.get("vector"), keep=self.keep(step).to(x0.device)
        )
        errors = diffusion_loss(output, options.objective, self.schedule, x0, noise, t, options.min_snr_gamma)
        return errors.mean(), {}

    def keep(self, step: Step) -> Tensor:
        """Which samples keep their condition, (B,) bool: drawn for each sample; in validation all."""
        if not step.training:
            return torch.ones(step.count, dtype=torch.bool)
        draws = torch.rand(step.total, generator=step.generator("keep"))
        return step.own(draws >= self.options.condition_dropout)


def train_diffusion(run: Run, options: TrainDiffusionOptions) -> None:
    """Train on the latent or image set `run.source` and write the model `run.output`."""
    with start(run, options) as training:
        header, arrays = training.stored.header, training.stored.arrays()
        if header.kind not in ("latent", "image"):
            raise DataError(f"{run.source}: is a set of kind '{header.kind}'; train-diffusion needs latents or images")
        shape, dtype = arrays[header.kind]  # (C, H, W)
        network = replace(
            options.network, in_channels=shape[0], out_channels=shape[0], vector_size=len(header.vector_fields)
        )
        options = replace(options, network=network)
        learner = DenoiserLearner(options)
        init = read_model(Path(options.init), "denoiser", UNetConfig) if options.init else None
        if init:
            init.fill(learner.model)
        fitted = training.fit(learner, options, init)
        facts = DenoiserFacts(
            space=header.kind,
            shape=shape,
            schedule=msgspec.to_builtins(options.schedule),
            objective=options.objective,
            intensity=header.intensity or Intensity(),
            vector_fields=header.vector_fields,
            spacing=common_spacing(training.stored),
            vae_digest=header.vae_digest,
            latent_scale=header.latent_scale,
            latent_shift=header.latent_shift,
            stored_dtype=stored_type(dtype) if header.kind == "image" else "int16",
        )
        training.save(fitted, "denoiser", network, facts, fitted.figures)
