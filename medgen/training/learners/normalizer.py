"""Train the normalizer on normal images only: to predict noise and velocity, and to leave normal images unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from msgspec.structs import replace
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medgen.artifacts.classes import NORMAL, normal_class
from medgen.artifacts.schema import Intensity
from medgen.diffusion.noise import sample_noise
from medgen.diffusion.objectives import diffusion_loss, to_x0
from medgen.diffusion.options import Objective, ScheduleConfig
from medgen.diffusion.schedules import Schedule
from medgen.errors import DataError, UsageError
from medgen.models.condition import check_fed
from medgen.models.facts import NormalizerFacts
from medgen.models.trained import FrozenVAE
from medgen.nets.options import UNetConfig
from medgen.nets.unet import UNet
from medgen.training.data.slices import Slices, common_spacing, stored_type
from medgen.training.data.step import Batch, Step, seeded
from medgen.training.learners.diffusion_options import NormalizerOptions
from medgen.training.learners.losses import ReconstructionLoss
from medgen.training.learners.vae_options import VAELosses
from medgen.training.loop.adapter import begin, save
from medgen.training.loop.init import as_base, read_model
from medgen.training.loop.learner import Learner, Parts, Shown
from medgen.training.loop.run import BatchSources, Training

HEADS = ("diffusion", "flow")
Decode = Callable[[Tensor], Tensor]
"""What the network sees (B, c, h, w) -> images (B, C, H, W), differentiable."""


class NormalizerLearner(Learner):
    """Noise and velocity from one trunk, each with its own time embedding, and an identity term in image space."""

    model: UNet

    def __init__(self, options: NormalizerOptions, decode: Decode) -> None:
        self.options = options.normalizer
        self.min_snr_gamma = options.min_snr_gamma
        self.tasks: dict[str, tuple[Schedule, Objective]] = {
            "diffusion": (Schedule(options.schedule), options.objective),
            "flow": (Schedule(flow_path(options.schedule)), "flow"),
        }
        self.decode = decode
        identity = self.options.identity
        self.identity_times = {head: path.time_of(identity.noise_level) for head, (path, _) in self.tasks.items()}
        self.image_loss = ReconstructionLoss(
            VAELosses(pixel=identity.pixel, gradient=identity.gradient, laplacian=identity.laplacian, ssim=0.0, kl=0.0)
        )
        with seeded(options.seed, "weights"):
            self.model = UNet(replace(options.network, heads=HEADS))

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        """Weighted sum of both tasks and the identity term for normal samples x (B, C, H, W)."""
        x0, options = batch["x"], self.options
        diffusion, flow = self.task_loss("diffusion", x0, step), self.task_loss("flow", x0, step)
        total = options.diffusion_weight * diffusion + options.flow_weight * flow
        parts = {"diffusion": diffusion.detach(), "flow": flow.detach()}
        weight = self.identity_weight(step)
        if weight:
            identity = self.identity_loss(x0, step)
            total, parts = total + weight * identity, {**parts, "identity": identity.detach()}
        return total, parts

    def task_loss(self, head: str, x0: Tensor, step: Step) -> Tensor:
        """Mean error of one head at random times, a scalar."""
        schedule, objective = self.tasks[head]
        t = step.own(schedule.sample_times(step.total, step.generator(f"time/{head}"))).to(x0.device)
        noise = step.noise(x0, f"noise/{head}")
        output = self.model(schedule.add_noise(x0, noise, t), t, head=head)
        return diffusion_loss(output, objective, schedule, x0, noise, t, self.min_snr_gamma).mean()

    def identity_weight(self, step: Step) -> float:
        """0 in the generative part, then rising without a jump; in validation the final value."""
        identity = self.options.identity
        begin, end = identity.ramp
        if not step.training or step.progress >= end:
            return identity.weight
        return identity.weight * max(step.progress - begin, 0.0) / (end - begin) if end > begin else 0.0

    def identity_loss(self, x0: Tensor, step: Step) -> Tensor:
        """Difference in image space between samples and their one-step estimates after noise, mean of both heads.

        A sample's image is what the VAE decodes from it, not the original: the UNet cannot correct the VAE's errors,
        and would distort latents if asked to. Gradients flow through the decoder into the UNet.
        """
        noise = step.noise(x0, "noise/identity")[: self.options.identity.samples]
        x0 = x0[: self.options.identity.samples]
        with torch.no_grad():
            images = self.decode(x0).float()
        terms = []
        for head in HEADS:
            estimate = self.estimate(head, x0, noise)
            if self.options.identity.checkpoint and torch.is_grad_enabled():
                decoded = checkpoint(self.decode, estimate, use_reentrant=False)
            else:
                decoded = self.decode(estimate)
            terms.append(self.image_loss(decoded, images)[0])
        return torch.stack(terms).mean()

    def samples(self, batch: Batch, seed: int) -> Shown:
        """Normal cases, and what each head makes of them in one step from the identity term's noise level."""
        x0 = batch["x"]
        noise = sample_noise(seed, range(len(x0)), x0.shape[1:]).to(x0.device)
        rows = {"case": x0} | {f"normal version, {head}": self.estimate(head, x0, noise) for head in HEADS}
        return Shown({name: self.decode(row.float()) for name, row in rows.items()})

    def estimate(self, head: str, x0: Tensor, noise: Tensor) -> Tensor:
        """x0 (B, C, H, W) as a head estimates it in one step from the identity term's noise level."""
        schedule, objective = self.tasks[head]
        t = torch.full((len(x0),), self.identity_times[head], device=x0.device)
        noisy = schedule.add_noise(x0, noise, t)
        return to_x0(objective, schedule, self.model(noisy, t, head=head).float(), noisy, t)


def flow_path(schedule: ScheduleConfig) -> ScheduleConfig:
    """The straight path over as many timesteps."""
    return ScheduleConfig(kind="flow", steps=schedule.steps)


def train(training: Training, options: NormalizerOptions) -> None:
    """Train on the normal cases of the latent or image set of `training` and write the model."""
    header = training.stored.header
    space, shape, dtype = training.latents_or_images()  # shape (C, H, W)
    init = read_model(Path(options.init), "normalizer", UNetConfig) if options.init else None
    if options.lora:
        options = as_base(options, init)
    check_fed(options.network, (), "normalizer")
    network = replace(options.network, in_channels=shape[0], out_channels=shape[0], vector_map=0, heads=HEADS)
    options = replace(options, network=network)
    vae = vae_of(training, options) if header.kind == "latent" else None
    if vae is None and options.vae is not None:
        raise UsageError("the set holds images; give latents, made with extract-latents, or leave out --vae")
    if vae and options.loop.compile:
        vae.network.compile()
    learner = NormalizerLearner(options, vae.images if vae else lambda x: x)
    facts = NormalizerFacts(
        space=space,
        shape=shape,
        schedule=msgspec.to_builtins(options.schedule),
        objective=options.objective,
        flow_schedule=msgspec.to_builtins(flow_path(options.schedule)),
        intensity=header.intensity or Intensity(),
        spacing=common_spacing(training.stored),
        vae_digest=header.vae_digest,
        latent_scale=header.latent_scale,
        latent_shift=header.latent_shift,
        stored_dtype=stored_type(dtype) if header.kind == "image" else "int16",
    )
    facts = begin(learner.model, options, init, facts, training.reporter)
    fitted = training.fit(learner, options, normal_slices(training, options), [init] if init else [], vae)
    save(training, fitted, options, init, "normalizer", network, facts)


def vae_of(training: Training, options: NormalizerOptions) -> FrozenVAE:
    """The VAE of the set's latents."""
    if options.vae is None:
        raise UsageError("the normalizer sees its latents as images too; give the VAE that made them with --vae")
    vae = training.load_vae(Path(options.vae), options)
    vae.check_made(training.stored.header, training.run.source)
    return vae


def normal_slices(training: Training, options: NormalizerOptions) -> BatchSources[Slices]:
    """The normal slices: all of the training split, and those of the validation split.

    DataError names the case of the training split that is not normal.
    """
    stored = training.stored
    if not stored.has("label"):
        training.reporter.warn("the set has no labels, so every case is taken for a normal one")
        return training.slices(options)
    normal = stored.column("label") == normal_class(stored.header)
    for row in stored.cases:
        if row.split == "train" and not normal[row.start : row.start + row.count].all():
            raise DataError(
                f"case {row.id} of the training split is not labelled '{NORMAL}', and the normalizer must see normal "
                f"images alone; keep others out of that split with: preprocess --train-only {NORMAL}"
            )
    train = Slices(stored, "train", options.seed, options.balance)
    held_out = any(row.split == "val" and normal[row.start : row.start + row.count].any() for row in stored.cases)
    if not held_out:
        training.reporter.warn("the set has no normal case in a 'val' split, so nothing is validated")
        return BatchSources(train, None)
    return BatchSources(train, Slices(stored, "val", options.seed, options.balance, among=normal))
