"""One block of each level of a network, with input as large as in use: what its time is spent on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medgen.nets.blocks import ResidualBlock
from medgen.nets.unet_config import UNetConfig
from medgen.nets.unet_trunk import Unit
from medgen.nets.vae import VAEConfig

UNET_SIDES, VAE_SIDES = (32, 32), (128, 128)
"""Of the finest level: latents, and a part of an image."""
DEPTH = 8
TOKENS = 16
"""Length of a context."""


def stages(config: UNetConfig | VAEConfig) -> Iterator[tuple[nn.Module, tuple[Tensor | None, ...]]]:
    """A block of each level, finest first, with random weights, and the arguments of its forward pass."""
    rows = 2 if isinstance(config, UNetConfig) and config.dims == 2 else 1
    for level, width in enumerate(config.widths):
        sides = UNET_SIDES if isinstance(config, UNetConfig) else VAE_SIDES
        plane = [max(side >> level, 1) for side in sides]
        depth = [DEPTH] if config.dims == 3 else []
        x = torch.randn(rows, width, *depth, *plane)
        if isinstance(config, VAEConfig):
            yield ResidualBlock(config.dims, width, width, groups=config.groups, norm_eps=config.norm_eps), (x, None)
        else:
            context = torch.randn(rows, TOKENS, config.context_width) if config.context_width else None
            embedding = torch.randn(rows, config.time_width)
            yield Unit(config, width, width, config.attention[level]), (x, embedding, context)
