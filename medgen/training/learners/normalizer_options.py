"""Options of the normalizer's losses."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import Options
from medgen.errors import ConfigError
from medgen.training.loop.options import Count, Weight

Fraction = Annotated[float, Meta(ge=0, le=1)]


class IdentityOptions(Options, frozen=True):
    """A normal image is its own nearest normal version: noising and denoising must leave its look unchanged."""

    weight: Weight = 0.1
    """Weight of the term after the ramp; 0 = none."""
    ramp: tuple[Fraction, Fraction] = (0.3, 0.3667)
    """Shares of all steps between which its weight rises linearly from 0."""
    noise_level: Annotated[float, Meta(gt=0, lt=1)] = 0.4
    """Share of noise, sigma / (alpha + sigma), at which both heads estimate x0 in one step."""
    samples: Count = 2
    """Samples of a batch whose images are decoded; these take most of the memory."""
    pixel: Weight = 1.0
    gradient: Weight = 0.5
    laplacian: Weight = 0.3
    checkpoint: bool = False
    """Decode again in the backward pass instead of keeping activations: slower, but takes less memory."""

    def __post_init__(self) -> None:
        if self.ramp[0] > self.ramp[1]:
            raise ConfigError(f"identity.ramp begins at {self.ramp[0]} and ends at {self.ramp[1]}; swap them")
        if self.weight and not (self.pixel or self.gradient or self.laplacian):
            raise ConfigError("identity: pixel, gradient and laplacian are all 0; set weight = 0 to leave the term out")


class NormalizerLosses(Options, frozen=True):
    """Weights of the normalizer's two tasks and of its identity term."""

    diffusion_weight: Weight = 1.0
    flow_weight: Weight = 0.5
    identity: IdentityOptions = IdentityOptions()
