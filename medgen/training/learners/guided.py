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
from medgen.nets.condition import Condition
from medgen.nets.unet import UNet
from medgen.training.data.step import Batch
from medgen.training.loop.learner import Learner


class GuidedLearner(Learner):
    """A learner whose network makes images or latents from noise, under a condition."""

    schedule: Schedule
    clip: tuple[float, float] | None = None
    """Bounds of what the network makes, if it has any."""

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

    @torch.no_grad()
    def drawn(self, batch: Batch, numbers: range, seed: int, guidance: float, steps: int) -> Tensor:
        """Samples (B, c, h, w) under the conditions of a batch, from noise that follows from seed and number alone."""
        like = self.seen(batch)
        condition = self.network.prepared(condition_of(batch))
        sides = of_one_network(self.network, condition, condition.null(), Condition.joined)
        noise = NoiseStream(seed, numbers, like.shape[1:], like.device).initial()
        options = SamplingOptions(steps=steps)
        return sample(guide(sides, guidance), noise, self.schedule, self.objective, options, clip=self.clip)
