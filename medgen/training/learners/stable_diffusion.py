"""A training of the denoiser that begins from Stable Diffusion."""

from __future__ import annotations

import dataclasses

import msgspec
from msgspec.structs import replace

from medgen.errors import DataError
from medgen.models.diffusers.imported import grey_digest
from medgen.models.facts import DenoiserFacts
from medgen.models.text.prompts import distinct
from medgen.nets.options import UNetConfig
from medgen.training.data.texts import training_texts
from medgen.training.learners.diffusion_options import DenoiserOptions
from medgen.training.loop.init import InitialWeights, as_base, check_like
from medgen.training.loop.run import Training


def as_stable_diffusion(
    training: Training, options: DenoiserOptions, init: InitialWeights[UNetConfig]
) -> tuple[DenoiserOptions, InitialWeights[UNetConfig]]:
    """The options of such a training, as in `as_base`, and what it begins from.

    DataError unless the set holds latents that are scaled as its own, which may be those of its VAE's grey variant,
    and for options that differ from what it is.
    """
    where, latents, stored = str(init.path), training.stored.header, training.stored
    told = DenoiserFacts.read(init.facts, where)
    if latents.kind != told.space or latents.latent_space != told.latent_space:
        raise DataError(
            f"{where}: was trained on latents scaled by {told.latent_scale}, and the set has others; encode the images "
            "by 'medgen extract-latents --vae FOLDER' with its own VAE"
        )
    options = as_base(options, init)
    asked = replace(told, schedule=msgspec.to_builtins(options.schedule), objective=options.objective)
    check_like(init.path, init.config, init.facts, options.network, asked)
    training.reporter.say(f"network, schedule and objective are those of {init.path}")
    if stored.has("modality") and distinct(training_texts(stored, "modality")):
        training.reporter.warn(
            "the set's modalities are not used, since Stable Diffusion reads texts only; name them in the texts"
        )
    if latents.vae_digest == grey_digest(told.vae_digest):
        init = dataclasses.replace(init, facts={**init.facts, "vae_digest": latents.vae_digest})
    return options, init
