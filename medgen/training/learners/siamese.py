"""Train a mask-conditioned denoiser with two branches that share a network (Qiu et al. 2025), on image-mask pairs.

Sampling runs the mask branch; the image branch, which also sees the image, only teaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import torch
from msgspec.structs import replace
from torch import Tensor

from medgen.artifacts.label_maps import mask_names, sided
from medgen.artifacts.model_file import Model, open_model
from medgen.artifacts.schema import Intensity
from medgen.config import convert
from medgen.diffusion.objectives import diffusion_loss
from medgen.diffusion.options import Objective
from medgen.diffusion.schedules import Schedule
from medgen.diffusion.siamese import consistency, emphasis, image_weight, reseen
from medgen.errors import ConfigError, DataError
from medgen.models.condition import check_fed, fitted_to_vectors
from medgen.models.facts import DenoiserFacts, check_intensity
from medgen.models.trained import FrozenVAE
from medgen.nets.options import SideConfig, UNetConfig
from medgen.nets.side.siamese import Siamese
from medgen.nets.unet import UNet
from medgen.training.data.augment import random_flip
from medgen.training.data.conditions import seen_condition
from medgen.training.data.slices import common_spacing, spacing_range, stored_type, vector_range
from medgen.training.data.step import Batch, Step, seeded
from medgen.training.learners.diffusion_options import SiameseOptions
from medgen.training.learners.guidance_search import with_guidance
from medgen.training.learners.guided import GuidedLearner
from medgen.training.loop.init import check_like
from medgen.training.loop.learner import Parts
from medgen.training.loop.resume import below
from medgen.training.loop.run import Training

FACTORS = (1, 2, 4, 8)
"""Image sides / latent sides that a hint can bridge."""
SAVED = "unet."
"""The part of the network that sampling runs."""


class SiameseLearner(GuidedLearner):
    """Weighted sum of both branches' errors, of their distance, and of the mask branch's error on a second input."""

    model: Siamese

    def __init__(
        self, options: SiameseOptions, channels: int, latents: Callable[[Tensor], Tensor] = lambda images: images
    ) -> None:
        self.options, self.latents = options, latents
        self.schedule = Schedule(options.schedule)
        with seeded(options.seed, "weights"):
            self.model = Siamese(options.network, channels, options.hint)
        self.idle_weights = not options.losses.sees_image
        unet = self.model.unet
        if options.trunk != "all":
            unet.requires_grad_(False)
            self.model.side.requires_grad_(True)
        if options.trunk == "decoder":
            unet.up.requires_grad_(True)
            unet.outputs.requires_grad_(True)

    @property
    def network(self) -> UNet:
        """The mask branch."""
        return self.model.unet

    @property
    def objective(self) -> Objective:
        """That of the training."""
        return self.options.objective

    def seen(self, batch: Batch) -> Tensor:
        """The images, or their latents."""
        return self.latents(batch["x"])

    def begin_from(self, trunk: Model) -> None:
        """Take a denoiser's weights, and its side network's; if it has none, ours starts as a copy of its encoder."""
        unet, weights = self.model.unet, trunk.weights()
        side = {name.removeprefix("side."): weights.pop(name) for name in list(weights) if name.startswith("side.")}
        missing = unet.load_state_dict(weights, strict=False)
        wrong = [name for name in missing.missing_keys if not name.startswith("side.")] + missing.unexpected_keys
        if wrong:
            raise DataError(f"{trunk.path}: the weights to begin from do not fit the network: {', '.join(wrong[:5])}")
        if side:
            self.model.side.load_state_dict(side)
        else:
            self.model.side.begin_as(unet.down, unet.middle)

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        """Weighted sum of the terms for images x (B, C, H, W) with masks (B, M, H, W)."""
        options, weights = self.options, self.options.losses
        if options.flip and step.training:
            batch = {**batch, "x": random_flip(batch["x"], step), "mask": random_flip(batch["mask"], step)}
        image, mask = batch["x"], batch["mask"]
        x0 = self.latents(image)
        t = step.own(self.schedule.sample_times(step.total, step.generator("time")))
        near, t = t <= options.losses.augmentation_time * self.schedule.steps, t.to(x0.device)
        noise = step.noise(x0)
        x_t = self.schedule.add_noise(x0, noise, t)
        condition = seen_condition(batch, step, options.condition_dropout)
        places = emphasis(mask, x0.shape[2:], options.lesion_weight)
        progress = step.progress if step.training else 1.0

        def error(output: Tensor, rows: Tensor | slice = slice(None), truth: Tensor = x0) -> Tensor:
            return diffusion_loss(
                output, options.objective, self.schedule, truth[rows], noise[rows], t[rows], options.min_snr_gamma,
                None if places is None else places[rows],
            )  # fmt: skip

        if not weights.sees_image:
            return self._total({"mask": error(self.model.unet(x_t, t, condition)).mean()})
        of_mask, of_image = self.model(x_t, t, condition, image, image_weight(progress))
        terms = {
            "mask": error(of_mask).mean(),
            "image": error(of_image).mean(),
            "consistency": consistency(
                of_mask, of_image, options.objective, self.schedule, t, options.min_snr_gamma, places
            ).mean(),
        }
        if weights.augmentation and progress >= weights.augmentation_from:
            estimate, again = reseen(of_image, options.objective, self.schedule, x_t, noise, t)
            # At least one row: where weights are sharded, all processes must call the network equally often.
            rows = torch.argsort(near, descending=True, stable=True)[: max(int(near.sum()), 1)].to(x0.device)
            output = self.model.unet(again[rows], t[rows], condition.of(rows))
            errors = error(output, rows, estimate) * near.to(x0.device)[rows]
            terms["augmentation"] = errors.sum() / len(x0)
        return self._total(terms)

    def _total(self, terms: dict[str, Tensor]) -> tuple[Tensor, Parts]:
        total = torch.stack([getattr(self.options.losses, name) * term for name, term in terms.items()]).sum()
        return total, {name: term.detach() for name, term in terms.items()}


def train(training: Training, options: SiameseOptions) -> None:
    """Train on the pairs of images and masks of `training` and write a denoiser that takes masks."""
    stored, run = training.stored, training.run
    header, arrays = stored.header, stored.arrays()
    if header.kind != "image":
        raise DataError(
            f"{run.source}: is a set of kind '{header.kind}'; the siamese learner looks at images as well as at "
            "latents: give the set of images, and the VAE with --vae"
        )
    if not stored.has("mask"):
        raise DataError(f"{run.source}: has no masks to learn from; preprocess it with --masks")
    if options.flip and header.vector_fields:
        raise ConfigError("flip would mirror images and not the places in their vectors; set flip = false")
    if options.flip and (named := sided(mask_names(header))):
        raise ConfigError(
            f"flip would mirror images and not the sides in the names of their classes ({', '.join(named)}); set "
            "flip = false"
        )
    shape, dtype = arrays["image"]  # (C, H, W)
    vae = training.load_vae(Path(options.vae), options) if options.vae else None
    network = _network(options, shape, header.vector_fields, len(mask_names(header)) - 1, vae)
    options = replace(options, network=network)
    factor = vae.network.config.factor if vae else 1
    facts = DenoiserFacts(
        space="latent" if vae else "image",
        shape=(network.in_channels, shape[1] // factor, shape[2] // factor),
        schedule=msgspec.to_builtins(options.schedule),
        objective=options.objective,
        intensity=check_intensity(header, vae.facts) if vae else header.intensity or Intensity(),
        vector_fields=header.vector_fields,
        mask_names=mask_names(header),
        spacing=common_spacing(stored),
        vector_range=vector_range(stored),
        spacing_range=spacing_range(stored),
        stored_dtype=stored_type(dtype),
    )
    if vae:
        facts = replace(
            facts,
            vae_digest=vae.model.digest,
            latent_scale=vae.facts.latent_scale,
            latent_shift=vae.facts.latent_shift,
            stored_dtype="int16",
        )
        if options.loop.compile:
            vae.network.compile()
    learner = SiameseLearner(options, shape[0], vae.latents if vae else lambda images: images)
    learner.clip, learner.vae = None if vae else (-1.0, 1.0), vae
    trunk = open_model(Path(options.init), kind="denoiser") if options.init else None
    if trunk:
        check_trunk(trunk, network, facts)
        learner.begin_from(trunk)
    elif options.trunk != "all":
        raise ConfigError(
            f"trunk = {options.trunk} keeps a trained trunk unchanged; name it with --init, or set trunk = all"
        )
    sources = training.slices(options, masks=True)
    fitted = training.fit(learner, options, sources, [trunk] if trunk else [], vae)
    facts = with_guidance(facts, fitted.loop, learner, options)
    training.save(fitted, "denoiser", network, facts, fitted.figures, part=partial(below, prefix=SAVED))


def _network(
    options: SiameseOptions, shape: tuple[int, ...], vector_fields: tuple[str, ...], classes: int, vae: FrozenVAE | None
) -> UNetConfig:
    """The UNet fitted to images or latents and to masks; raises where it cannot be."""
    config, channels, factor = options.network, shape[0], 1
    if vae:
        channels, factor = vae.network.config.latent_channels, vae.network.config.factor
        if shape[0] != vae.network.config.in_channels:
            raise DataError(
                f"the set holds images of {shape[0]} channels, and the VAE takes {vae.network.config.in_channels}; "
                "give the VAE that was trained on such images"
            )
    if factor not in FACTORS:
        raise DataError(f"the VAE makes sides {factor} times smaller; masks can be followed only at factors {FACTORS}")
    whole = factor * config.factor
    if any(side % whole for side in shape[1:]):
        raise DataError(
            f"images of {shape[1]} x {shape[2]} do not fit: sides must be multiples of {whole}; resize in preprocess"
        )
    if config.side:
        raise ConfigError("network.side: the siamese learner fits it to the masks; leave it out, or set hint_width")
    check_fed(config, ("vector",), "siamese learner")
    side = replace(SideConfig(), classes=classes, factor=factor, hint_width=options.hint_width)
    config = fitted_to_vectors(config, vector_fields)
    return replace(config, in_channels=channels, out_channels=channels, side=side)


def check_trunk(trunk: Model, network: UNetConfig, facts: DenoiserFacts) -> None:
    """DataError that names everything in which a denoiser is not the trunk of what is trained."""
    theirs = convert(UNetConfig, trunk.config, str(trunk.path))
    if theirs.side is None:
        theirs = replace(theirs, side=network.side)
    check_like(trunk.path, theirs, trunk.facts, network, facts)
