"""Drawing images from a network in training, with the states that it went through."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medgen.diffusion.noise import NoiseStream
from medgen.diffusion.options import Objective, SamplingOptions
from medgen.diffusion.samplers import Point, ddim_step
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.models.facts import DenoiserFacts
from medgen.models.trained import FrozenVAE
from medgen.nets.condition import Condition
from medgen.nets.unet import UNet


@dataclass(frozen=True)
class Space:
    """Where a denoiser works, and how it is drawn from."""

    schedule: Schedule
    objective: Objective
    facts: DenoiserFacts
    vae: FrozenVAE | None

    @property
    def clip(self) -> tuple[float, float] | None:
        """The range of x0; latents have none."""
        return (-1.0, 1.0) if self.facts.space == "image" else None

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of the images."""
        if self.vae is None:
            return self.facts.shape
        config = self.vae.network.config
        return (config.out_channels, *(side * config.factor for side in self.facts.shape[1:]))

    def images(self, x0: Tensor) -> Tensor:
        """What the network works on as images (B, C, H, W)."""
        return x0 if self.vae is None else self.vae.images(x0)

    def seen(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] as the network works on them."""
        return images if self.vae is None else self.vae.latents(images)

    def step(self, x0: Tensor, x: Tensor, point: Point, following: Point) -> tuple[Tensor, float]:
        """Mean (B, ...) and standard deviation of the next state of ancestral sampling, from an estimate of x0."""
        x0 = x0 if self.clip is None else x0.clamp(*self.clip)
        alpha, sigma = point
        return ddim_step(x0, (x - alpha * x0) / sigma, point, following, 1.0)


@dataclass(frozen=True)
class Chain:
    """How samples came about: the states (N + 1, B, ...) and the estimates of x0 at the first N of them."""

    states: list[Tensor]
    estimates: list[Tensor]


def draw(unet: UNet, condition: Condition, space: Space, options: SamplingOptions, noise: NoiseStream) -> Chain:
    """Samples of a network as it is, without guidance; the last state is x0."""
    states: list[Tensor] = []
    estimates: list[Tensor] = []
    prepared = unet.prepared(condition)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        states.append(x)
        output: Tensor = unet(x, t, prepared)
        return output

    x0 = sample(
        denoise,
        noise.initial(),
        space.schedule,
        space.objective,
        options,
        noise=noise.step,
        callback=lambda step, time, estimate: estimates.append(estimate),
        clip=space.clip,
    )
    return Chain([*states, x0], estimates)
