"""The kinds of trained networks: how each is built, and which facts its file must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from medgen.config import Options
from medgen.models.facts import DenoiserFacts, Facts, InterpolatorFacts, NormalizerFacts, SelectorFacts, VAEFacts
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.scorer import Scorer, ScorerConfig
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE


class Kind(NamedTuple):
    """What a kind of model is made of."""

    network: Callable[[Any], nn.Module]
    """Builds the network from its configuration."""
    configuration: type[Options]
    facts: type[Facts]


KINDS = {
    "vae": Kind(VAE, VAEConfig, VAEFacts),
    "denoiser": Kind(UNet, UNetConfig, DenoiserFacts),
    "interpolator": Kind(UNet, UNetConfig, InterpolatorFacts),
    "normalizer": Kind(UNet, UNetConfig, NormalizerFacts),
    "selector": Kind(Scorer, ScorerConfig, SelectorFacts),
}
"""Every kind, by its name in the file."""
