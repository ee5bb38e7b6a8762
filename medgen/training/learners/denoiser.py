"""Train the denoiser: a diffusion model of latents or of images, under the set's vectors and, if it reads, texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
from msgspec.structs import replace
from torch import Tensor

from medgen.artifacts.schema import Intensity
from medgen.diffusion.objectives import diffusion_loss
from medgen.diffusion.options import Objective
from medgen.diffusion.schedules import Schedule
from medgen.errors import UsageError
from medgen.models.condition import check_fed, fitted_to_vectors
from medgen.models.facts import DenoiserFacts
from medgen.models.text.prompts import PARTS as TEXT_PARTS
from medgen.models.trained import FrozenVAE
from medgen.nets.options import UNetConfig
from medgen.nets.text.modality import with_new_modalities
from medgen.nets.unet import UNet
from medgen.prompts.variation import Variation
from medgen.training.data.conditions import seen_condition
from medgen.training.data.slices import common_spacing, spacing_range, stored_type, vector_range
from medgen.training.data.step import Batch, Step, seeded
from medgen.training.data.texts import reading_of, warning_of_cuts
from medgen.training.learners.diffusion_options import DenoiserOptions
from medgen.training.learners.guidance_search import with_guidance
from medgen.training.learners.guided import GuidedLearner
from medgen.training.learners.stable_diffusion import as_stable_diffusion
from medgen.training.loop.adapter import begin, save, train_only, tune_text
from medgen.training.loop.init import as_base, read_model
from medgen.training.loop.learner import Parts
from medgen.training.loop.run import Training


class DenoiserLearner(GuidedLearner):
    """Weighted error of the network's prediction from noisy data."""

    model: UNet

    def __init__(self, options: DenoiserOptions) -> None:
        self.options = options
        self.schedule = Schedule(options.schedule)
        with seeded(options.seed, "weights"):
            self.model = UNet(options.network)

    @property
    def network(self) -> UNet:
        """The whole model."""
        return self.model

    @property
    def objective(self) -> Objective:
        """That of the training."""
        return self.options.objective

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        """Mean error over x0 (B, C, H, W), each sample with its own time and noise, with or without its condition."""
        options, x0 = self.options, batch["x"]
        t = step.own(self.schedule.sample_times(step.total, step.generator("time"))).to(x0.device)
        noise = step.noise(x0)
        condition = seen_condition(batch, step, options.condition_dropout)
        output = self.model(self.schedule.add_noise(x0, noise, t), t, condition)
        errors = diffusion_loss(output, options.objective, self.schedule, x0, noise, t, options.min_snr_gamma)
        return errors.mean(), {}


def vae_for_pictures(training: Training, options: DenoiserOptions) -> FrozenVAE | None:
    """The VAE that decodes the pictures of latents; a message where they are shown as they are."""
    if training.stored.header.kind == "image":
        if options.vae is not None:
            raise UsageError("the set holds images; give latents, made with extract-latents, or leave out --vae")
        return None
    if options.vae is None:
        if options.loop.sample_every:
            training.reporter.say("the pictures show latents as colours; --vae FILE decodes them")
        return None
    vae = training.load_vae(Path(options.vae), options)
    vae.check_made(training.stored.header, training.run.source)
    return vae


def train(training: Training, options: DenoiserOptions) -> None:
    """Train on the latent or image set of `training` and write the model."""
    header = training.stored.header
    space, shape, dtype = training.latents_or_images()  # shape (C, H, W)
    init = read_model(Path(options.init), "denoiser", UNetConfig) if options.init else None
    old = DenoiserFacts.read(init.facts, str(init.path)) if init else None
    if init and old and old.merges:
        options, init = as_stable_diffusion(training, options, init)
    elif options.lora:
        options = as_base(options, init)
    variation = Variation(options.prompts, options.seed) if options.prompts else None
    reading = reading_of(training.stored, options, old, training.device, training.run.source, variation)
    if reading.prompts and (warning := warning_of_cuts(training.stored, reading.prompts)):
        training.reporter.warn(warning)
    check_fed(reading.network, ("vector", *(TEXT_PARTS if reading.prompts else ())), "denoiser")
    network = fitted_to_vectors(reading.network, header.vector_fields)
    network = replace(network, in_channels=shape[0], out_channels=shape[0])
    options = replace(options, network=network)
    learner = DenoiserLearner(options)
    learner.clip = (-1.0, 1.0) if header.kind == "image" else None
    learner.vae = vae_for_pictures(training, options)
    facts = DenoiserFacts(
        space=space,
        shape=shape,
        schedule=msgspec.to_builtins(options.schedule),
        objective=options.objective,
        intensity=header.intensity or Intensity(),
        vector_fields=header.vector_fields,
        spacing=common_spacing(training.stored),
        vector_range=vector_range(training.stored),
        spacing_range=spacing_range(training.stored),
        vae_digest=header.vae_digest,
        latent_scale=header.latent_scale,
        latent_shift=header.latent_shift,
        stored_dtype=stored_type(dtype) if header.kind == "image" else "int16",
        guidance=old.guidance if old and old.merges else None,  # unless a search finds another
        **reading.facts,
    )
    if init:
        init = dataclasses.replace(init, weights=with_new_modalities(init.weights, network.modalities))
    elif reading.encoder and learner.model.text is not None:
        learner.model.text.load_state_dict(reading.encoder.weights)
    facts = begin(learner.model, options, init, facts, training.reporter)
    if options.text_tuning == "lora":
        tune_text(learner.model, options, training.reporter)
    if "all" not in options.parts:
        train_only(learner.model, options.parts, init)
    sources = training.slices(options, prompts=reading.prompts, variation=variation)
    others = [one for one in (init, reading.encoder) if one is not None]
    fitted = training.fit(learner, options, sources, others)
    facts = with_guidance(facts, fitted.loop, learner, options)
    save(training, fitted, options, init, "denoiser", network, facts)
