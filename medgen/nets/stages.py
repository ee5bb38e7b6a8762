"""The parts of a network that its time is spent on, one of each level, with input as large as in use."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medgen.nets.blocks import ResidualBlock, Upsample
from medgen.nets.unet_config import UNetConfig
from medgen.nets.unet_trunk import Unit
from medgen.nets.vae import VAEConfig

UNET_SIDE, VAE_SIDE = 32, 128
"""Of the finest level: latents, and a part of an image."""
WORK = 2**24
"""Multiplications for a tap of a convolution there: small networks get as many rows as that takes, up to 4."""
DEPTH = 8
TOKENS = 16
"""Length of a context."""


def stages(config: UNetConfig | VAEConfig) -> Iterator[tuple[nn.Module, tuple[Tensor | None, ...]]]:
    """A block of each level, finest first, and its upsampling, with random weights and arguments to call them with."""
    side = UNET_SIDE if isinstance(config, UNetConfig) else VAE_SIDE
    depth = (DEPTH,) if config.dims == 3 else ()
    rows = min(max(WORK // (config.widths[0] ** 2 * side**2 * math.prod(depth)), 1), 4)
    for level, width in enumerate(config.widths):
        x = torch.randn(rows, width, *depth, side >> level, side >> level)
        if isinstance(config, VAEConfig):
            yield ResidualBlock(config.dims, width, width, groups=config.groups, norm_eps=config.norm_eps), (x, None)
        else:
            context = torch.randn(rows, TOKENS, config.context_width) if config.context_width else None
            embedding = torch.randn(rows, config.time_width)
            yield Unit(config, width, width, config.attention[level]), (x, embedding, context)
        if level > 0:
            yield Upsample(config.dims, width, depth=isinstance(config, UNetConfig) and config.down_depth), (x,)
