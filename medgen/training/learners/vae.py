"""Train the autoencoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from medgen.artifacts.latent_space import LatentSpace
from medgen.errors import ConfigError, DataError
from medgen.models.facts import VAEFacts
from medgen.nets.compute import autocast
from medgen.nets.discriminator import PatchDiscriminator
from medgen.nets.options import VAEConfig
from medgen.nets.perception.similarity import ssim
from medgen.nets.vae import VAE, to_grey
from medgen.training.data.augment import random_crop, random_flip
from medgen.training.data.slices import Slices, stored_type
from medgen.training.data.step import Batch, Step, seeded
from medgen.training.learners.losses import ReconstructionLoss, adaptive_weight, discriminator_loss, generator_loss
from medgen.training.learners.vae_options import TrainVAEOptions
from medgen.training.loop.init import InitialWeights, read_model
from medgen.training.loop.learner import Learner, Parts, Shown
from medgen.training.loop.loop import Loop
from medgen.training.loop.run import Run, start

MEASURED = 512
"""Slices from which the latents' mean and standard deviation are taken."""
UNUSED = 0.05
"""Share of the largest deviation below which a channel holds next to nothing."""


ENLARGED = 4.0
"""How many times a difference is enlarged in pictures; grey is none."""


class VAELearner(Learner):
    """Reconstruction through the latent, a KL term, and a discriminator where the adversarial term has a weight."""

    model: VAE
    discriminator: PatchDiscriminator | None = None

    def __init__(self, options: TrainVAEOptions) -> None:
        self.options = options
        with seeded(options.seed, "weights"):
            self.model = VAE(options.network)
            if options.losses.adversarial:
                judge = replace(options.discriminator, in_channels=options.network.in_channels)
                self.discriminator = PatchDiscriminator(judge)
        self.reconstruction_loss = ReconstructionLoss(options.losses)
        if options.decoder_only:
            self.model.requires_grad_(False)
            for weight in self.model.decoder_parameters():
                weight.requires_grad_(True)
        self._judged = (torch.empty(0), torch.empty(0))

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        """Weighted sum of all terms for images x (B, C, H, W)."""
        weights, x = self.options.losses, batch["x"]
        if step.training:
            x = random_flip(x, step) if self.options.flip else x
            x = random_crop(x, self.options.crop, step) if self.options.crop else x
        posterior = self.model.encode(x)
        z = posterior.mean + torch.exp(0.5 * posterior.logvar) * step.noise(posterior.mean)
        reconstruction = self.model.decode(z)
        total, parts = self.reconstruction_loss(reconstruction, x)
        if weights.kl:
            kl = posterior.kl().mean()
            total, parts = total + weights.kl * kl, {**parts, "kl": kl.detach()}
        if self.discriminator is not None and step.training:
            self.discriminator.requires_grad_(False)
            against = generator_loss(self.discriminator(reconstruction))
            self.discriminator.requires_grad_(True)
            balance = adaptive_weight(total, against, self.model.last_layer_weight)
            total, parts = total + weights.adversarial * balance * against, {**parts, "adversarial": against.detach()}
            self._judged = x, reconstruction.detach()
        return total, parts

    def samples(self, batch: Batch, seed: int) -> Shown:
        """Images, their reconstructions from the mean latent, and how these differ, enlarged."""
        x = batch["x"]
        y = self.model.decode(self.model.encode(x).mean).float()
        return Shown({"image": x, "reconstruction": y, f"difference x {ENLARGED:g}": (y - x) * ENLARGED})

    def discriminator_loss(self, batch: Batch, step: Step) -> Tensor:
        """Loss of the discriminator on the images and reconstructions that `loss` has just seen."""
        if self.discriminator is None:
            raise ValueError("there is no discriminator: the adversarial term has no weight")
        real, fake = self._judged
        return discriminator_loss(self.discriminator(real), self.discriminator(fake))


def train_vae(run: Run, options: TrainVAEOptions) -> None:
    """Train on the image set `run.source` and write the model `run.output`."""
    if options.decoder_only == "with-init":
        options = replace(options, decoder_only=options.init is not None)
    if options.decoder_only and options.init is None:
        raise ConfigError("decoder_only trains the decoder of a VAE that exists; name that VAE with --init")
    with start(run, options) as training:
        stored, intensity = training.stored, training.stored.header.intensity
        if stored.header.kind != "image" or intensity is None:
            raise DataError(f"{run.source}: is a set of kind '{stored.header.kind}'; train-vae needs an image set")
        shape, dtype = stored.arrays()["image"]  # (C, H, W)
        init = read_model(Path(options.init), "vae", VAEConfig) if options.init else None
        if init and init.config.in_channels != shape[0]:
            init = _for_channels(init, shape[0], run.source)
            training.reporter.say(
                "the VAE is for colour: it takes the images as grey, and gives the mean of its channels"
            )
        network = replace(init.config if init else options.network, in_channels=shape[0], out_channels=shape[0])
        asked = replace(options.network, in_channels=shape[0], out_channels=shape[0])
        if init and network != asked and options.network != VAEConfig():
            training.reporter.say(f"the network has the shape of {options.init}, whatever the options say of it")
        options = replace(options, network=network)
        learner = VAELearner(options)
        if init:
            init.fill(learner.model)
        sources = training.slices(options)
        fitted = training.fit(learner, options, sources, [init] if init else [])
        with fitted.loop.averaged():
            space = latent_space(learner.model, fitted.loop, sources.train)
            quality = {}
            if sources.validation is not None:
                quality = reconstruction_quality(learner.model, fitted.loop, sources.validation)
        facts = VAEFacts(intensity, space.scale, space.shift, stored_type(dtype))
        training.save(fitted, "vae", network, facts, {**fitted.figures, **quality})


def _for_channels(init: InitialWeights[VAEConfig], channels: int, source: str) -> InitialWeights[VAEConfig]:
    """Turn a VAE of colour images into one of grey images; DataError for any other change of channels."""
    theirs = init.config.in_channels
    if channels != 1:
        raise DataError(
            f"{source} holds images of {channels} channels, and the VAE to begin from takes {theirs}; "
            f"preprocess with --channels {theirs}"
        )
    config, weights = to_grey(init.config, init.weights)
    return dataclasses.replace(init, config=config, weights=weights)


@torch.inference_mode()
def latent_space(model: VAE, loop: Loop, slices: Slices) -> LatentSpace:
    """The space in which the posterior means of some slices are standardized."""
    means = []
    for x in _images(loop, slices, MEASURED):
        with autocast(loop.device, loop.dtype):
            means.append(model.encode(x).mean.double().transpose(0, 1).flatten(1))  # (c, N)
    return standardizing(torch.cat(means, dim=1))


def standardizing(channels: Tensor) -> LatentSpace:
    """The space in which each channel, seen in N values (c, N), has mean 0 and standard deviation 1.

    A channel that the VAE hardly uses is not amplified: no deviation counts as less than `UNUSED` of the largest.
    """
    std = channels.std(dim=1, correction=0)
    std = std.clamp(min=max(UNUSED * float(std.max()), 1e-6))
    return LatentSpace(tuple((1 / std).tolist()), tuple(channels.mean(dim=1).tolist()))


@torch.inference_mode()
def reconstruction_quality(model: VAE, loop: Loop, slices: Slices) -> dict[str, float]:
    """PSNR in dB and SSIM of reconstructions through the posterior mean, on the range [-1, 1]; means over slices."""
    psnr, similarity = [], []
    for x in _images(loop, slices, loop.options.validation_samples):
        with autocast(loop.device, loop.dtype):
            y = model.decode(model.encode(x).mean).float().clamp(-1, 1)
        psnr.append(10 * torch.log10(4 / (x - y).square().flatten(1).mean(1).clamp(min=1e-10)))
        similarity.append(ssim(x, y, 2.0))
    return {
        "reconstruction_psnr": float(torch.cat(psnr).mean()),
        "reconstruction_ssim": float(torch.cat(similarity).mean()),
    }


def _images(loop: Loop, slices: Slices, limit: int) -> Iterator[Tensor]:
    """At most `limit` slices that are finite, evenly spread, in batches (B, C, H, W) on the loop's device."""
    chosen = slices.samples[np.linspace(0, len(slices) - 1, min(limit, len(slices))).astype(np.int64)]
    for first in range(0, len(chosen), loop.options.batch_size):
        x = slices.read(chosen[first : first + loop.options.batch_size])["x"].to(loop.device)
        yield x[torch.isfinite(x).flatten(1).all(1)]
