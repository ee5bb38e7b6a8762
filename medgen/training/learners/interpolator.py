"""Train the interpolator: a diffusion model of what a spline misses between thick slices, in latents."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import torch
from msgspec.structs import replace
from torch import Tensor

from medgen.diffusion.noise import sample_noise
from medgen.diffusion.objectives import diffusion_loss
from medgen.diffusion.options import SamplingOptions
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.diffusion.thin_grid import PLACES, SCALES, network_input
from medgen.errors import ConfigError, DataError, UsageError
from medgen.models.condition import check_fed
from medgen.models.facts import InterpolatorFacts, check_intensity
from medgen.models.trained import FrozenVAE
from medgen.nets.condition import Condition
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.unet import UNet
from medgen.training.data.step import Batch, Step, seeded
from medgen.training.data.volumes import Volumes
from medgen.training.learners.diffusion_options import InterpolatorOptions
from medgen.training.loop.adapter import begin, save
from medgen.training.loop.init import as_base, read_model
from medgen.training.loop.learner import Learner, Parts, Shown
from medgen.training.loop.run import BatchSources, Training

MEASURED = 32
"""Windows from which the spread of the residual is taken."""
STEPS = 8
"""Of the sampler, in pictures."""
ENCODED = 32
"""Slices that the VAE encodes at once."""


class InterpolatorLearner(Learner):
    """Weighted error of the network's prediction from the noisy residual: latents of thin slices less the guess's.

    A network that outputs zero reproduces the consistent spline, so training starts from there.
    """

    model: UNet
    idle_weights = True  # the null condition is never used

    def __init__(self, options: InterpolatorOptions, vae: FrozenVAE, residual_std: float = 1.0) -> None:
        self.options, self.vae, self.residual_std = options, vae, residual_std
        self.schedule = Schedule(options.schedule)
        with seeded(options.seed, "weights"):
            self.model = UNet(options.network)

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        """Mean error over windows, each with its own time and noise."""
        options = self.options
        guess, x0 = self.residual(batch)
        t = step.own(self.schedule.sample_times(step.total, step.generator("time"))).to(x0.device)
        noise = step.noise(x0)
        seen = network_input(self.schedule.add_noise(x0, noise, t), guess, batch["places"])
        output = self.model(seen, t, Condition(vector=batch["scales"]))
        errors = diffusion_loss(output, options.objective, self.schedule, x0, noise, t, options.min_snr_gamma)
        return errors.mean(), {}

    def residual(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latents of the guess, and the residual divided by its standard deviation; both (B, c, N, h, w)."""
        guess = self.latents(batch["guess"])
        return guess, (self.latents(batch["thin"]) - guess) / self.residual_std

    def samples(self, batch: Batch, seed: int) -> Shown:
        """The middle slices of windows: the thin slice, the spline's guess of it, and the guess with the residual."""
        guess = self.latents(batch["guess"])
        condition = Condition(vector=batch["scales"])
        noise = sample_noise(seed, range(len(guess)), guess.shape[1:]).to(guess.device)
        drawn = sample(
            lambda x, t: self.model(network_input(x, guess, batch["places"]), t, condition),
            noise,
            self.schedule,
            self.options.objective,
            SamplingOptions(steps=STEPS),
        )
        middle = guess.shape[2] // 2
        made = (guess + self.residual_std * drawn.float())[:, :, middle]
        return Shown(
            {
                "thin slice": batch["thin"][:, middle],
                "spline": batch["guess"][:, middle],
                "interpolated": self.vae.images(made),
            }
        )

    def latents(self, volumes: Tensor) -> Tensor:
        """Windows (B, N, C, H, W) in [-1, 1] -> latents of their slices, each encoded alone, (B, c, N, h, w)."""
        slices = volumes.flatten(0, 1)
        parts = [self.vae.latents(slices[first : first + ENCODED]) for first in range(0, len(slices), ENCODED)]
        latents = torch.cat(parts)
        return latents.view(*volumes.shape[:2], *latents.shape[1:]).transpose(1, 2)

    def measure(self, volumes: Volumes) -> None:
        """Set the residual's standard deviation from the first windows of the training; DataError for NaN in them."""
        squares = [float(self.residual(volumes.at([place]))[1].square().mean()) for place in range(MEASURED)]
        mean = sum(squares) / len(squares)
        if not math.isfinite(mean):
            fault = volumes.faulty(range(MEASURED)) or "the VAE makes latents of them that are not finite"
            raise DataError(f"the first windows cannot be measured: {fault}")
        self.residual_std = max(mean, 1e-12) ** 0.5


def train(training: Training, options: InterpolatorOptions) -> None:
    """Train on the thin image set of `training` and write the model."""
    stored, run = training.stored, training.run
    if options.vae is None:
        raise UsageError("the interpolator looks through a VAE; name it with --vae")
    if stored.header.kind != "image":
        raise DataError(f"{run.source}: is a set of kind '{stored.header.kind}'; the interpolator learns from images")
    vae = training.load_vae(Path(options.vae), options)
    if vae.network.config.dims != 2:
        raise DataError(f"{options.vae}: encodes volumes; the interpolator needs a VAE of slices (dims = 2)")
    intensity = check_intensity(stored.header, vae.facts)
    shape, _ = stored.arrays()["image"]  # (C, H, W)
    init = read_model(Path(options.init), "interpolator", UNetConfig) if options.init else None
    if options.lora:
        options = as_base(options, init)
    network = _network(options.network, vae.network.config, shape)
    options = replace(options, network=network)
    factor = vae.network.config.factor * network.factor
    volumes, seed = options.volumes, options.seed
    sources = BatchSources(
        Volumes(stored, "train", seed, volumes, factor, training.reporter.warn),
        Volumes(stored, "val", seed, volumes, factor, training.reporter.warn) if training.validated() else None,
    )
    training.reporter.say(f"{len(sources.train)} thin volumes, {sources.train.paired} of them with a thick partner")
    learner = InterpolatorLearner(options, vae)
    if init and options.lora:
        learner.residual_std = InterpolatorFacts.read(init.facts, str(init.path)).residual_std
    else:
        learner.measure(sources.train)
    if options.loop.compile:
        vae.network.compile()
    facts = InterpolatorFacts(
        schedule=msgspec.to_builtins(options.schedule),
        objective=options.objective,
        intensity=intensity,
        vae_digest=vae.model.digest,
        latent_scale=vae.facts.latent_scale,
        latent_shift=vae.facts.latent_shift,
        residual_std=learner.residual_std,
        depth=volumes.depth,
        plane=(shape[1], shape[2]),
        thick_spacing=volumes.thick_spacing,
        thin_spacing=sources.train.spacings(),
    )
    facts = begin(learner.model, options, init, facts, training.reporter)
    fitted = training.fit(learner, options, sources, [init] if init else [], vae)
    save(training, fitted, options, init, "interpolator", network, facts)


def _network(config: UNetConfig, vae: VAEConfig, shape: tuple[int, ...]) -> UNetConfig:
    """The UNet fitted to the VAE's latents; errors where volumes cannot go through it."""
    if config.dims != 3:
        raise ConfigError("the interpolator works on volumes; set network.dims = 3 (or start from its preset)")
    check_fed(config, ("vector",), "interpolator")
    if config.down_depth:
        raise ConfigError("the interpolator keeps depth, so that windows may have any; leave out network.down_depth")
    factor = vae.factor * config.factor
    if shape[0] != vae.in_channels or shape[1] % factor or shape[2] % factor:
        raise DataError(
            f"slices of {shape[0]} x {shape[1]} x {shape[2]} do not fit: {vae.in_channels} channels, and sides that "
            f"are multiples of {factor}; resize in preprocess"
        )
    channels = vae.latent_channels
    return replace(config, in_channels=2 * channels + PLACES, out_channels=channels, vector_size=SCALES)
