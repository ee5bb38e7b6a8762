"""What learners of networks that `generate` samples from have in common: samples in the course of the training."""

from __future__ import annotations

import torch
from torch import Tensor

from medgen.diffusion.guidance import guide, of_one_network
from medgen.diffusion.noise import NoiseStream
from medgen.diffusion.options import Objective, SamplingOptions
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.models.condition import condition_of
from medgen.models.trained import FrozenVAE
from medgen.nets.condition import Condition
from medgen.nets.unet import UNet
from medgen.training.data.step import Batch
from medgen.training.loop.learner import Learner, Shown

GUIDANCE, STEPS = 2.0, 12
"""Of the samples in pictures."""


class GuidedLearner(Learner):
    """A learner whose network makes images or latents from noise, under a condition."""

    schedule: Schedule
    clip: tuple[float, float] | None = None
    """Bounds of what the network makes, if it has any."""
    vae: FrozenVAE | None = None
    """What decodes it, if it is latents and this is known."""

    @property
    def network(self) -> UNet:
        """What sampling runs."""
        raise NotImplementedError

    @property
    def objective(self) -> Objective:
        """What it predicts."""
        raise NotImplementedError

    def seen(self, batch: Batch) -> Tensor:
        """What the network should make of a batch, (B, c, h, w)."""
        return batch["x"]

    def samples(self, batch: Batch, seed: int) -> Shown:
        """What validation cases show, and samples under their conditions."""
        real = self.seen(batch)
        drawn = self.drawn(batch, range(len(real)), seed, GUIDANCE, STEPS)
        latents = self.vae is None and self.clip is None
        note = "latents: first channels as red, green, blue" if latents else ""
        rows = {"case": real, f"sample, guidance {GUIDANCE:g}": drawn}
        if self.vae is not None:
            rows = {name: self.vae.images(row.float()) for name, row in rows.items()}
        return Shown(rows, batch.get("mask"), note)

    @torch.no_grad()
    def drawn(self, batch: Batch, numbers: range, seed: int, guidance: float, steps: int) -> Tensor:
        """Samples (B, c, h, w) under the conditions of a batch, from noise that follows from seed and number alone."""
        like = self.seen(batch)
        condition = self.network.prepared(condition_of(batch))
        sides = of_one_network(self.network, condition, condition.null(), Condition.joined)
        noise = NoiseStream(seed, numbers, like.shape[1:], like.device).initial()
        options = SamplingOptions(steps=steps)
        return sample(guide(sides, guidance), noise, self.schedule, self.objective, options, clip=self.clip)
