"""The units that UNet and VAE are built of: recomputing them one by one, and samples of them to time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medgen.nets.attention import Context
from medgen.nets.blocks import ResidualBlock, Upsample
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.unet_trunk import Unit

UNET_SIDE, VAE_SIDE = 32, 64
"""Of the finest level: latents, and a part of an image."""
WORK = 2**23
"""Multiplications per tap of a convolution in a block: small networks get as many rows as this needs, up to 2, and wide
ones a part of the image, so that it is at most four times as many."""
UPSAMPLED_ROWS = 2
"""Rows of a batch for upsampling: its kernels do work once for all rows, which would count too much with one."""
SMALL = 128
"""Most channels of a small UNet of images; half as many for volumes and VAEs, whose levels have more positions."""
DEPTH = 4
TOKENS = 16
"""Length of a context."""
Input = Tensor | Context | None
"""An argument of a unit."""


def units(network: nn.Module) -> Iterator[nn.Module]:
    """The outermost units of a network, which hold nearly all its weights and nearly all that a backward pass needs."""
    for child in network.children():
        if isinstance(child, Unit | ResidualBlock):
            yield child
        else:
            yield from units(child)


def recompute_units(network: nn.Module) -> None:
    """Make each unit keep only its input, and recompute the rest in the backward pass (Chen et al. 2016).

    Gradients are bit-identical where the same input always gives the same output.
    """
    for unit in units(network):
        unit.forward = partial(checkpoint, unit.forward, use_reentrant=False)


def is_small(config: UNetConfig | VAEConfig) -> bool:
    """Whether a pass through a network of these widths takes milliseconds, so that a faster way saves little time."""
    halved = (config.dims == 3) + isinstance(config, VAEConfig)
    return max(config.widths) <= SMALL >> halved


def block_samples(config: UNetConfig | VAEConfig) -> Iterator[tuple[nn.Module, tuple[Input, ...]]]:
    """A block of each level, finest first, with random weights and arguments for a call."""
    side, depth = _finest(config)
    row = config.widths[0] ** 2 * math.prod(depth)
    while row * side**2 > 4 * WORK:
        side //= 2
    rows = min(max(WORK // (row * side**2), 1), 2)
    for level, width in enumerate(config.widths):
        x = torch.randn(rows, width, *depth, *[max(side >> level, 1)] * 2)
        if isinstance(config, VAEConfig):
            yield ResidualBlock(config.dims, width, width, groups=config.groups, norm_eps=config.norm_eps), (x, None)
        else:
            context = Context(torch.randn(rows, TOKENS, config.context_width)) if config.context_width else None
            embedding = torch.randn(rows, config.time_width)
            yield Unit(config, width, width, config.levels_down[level]), (x, embedding, context)


def upsampling_samples(config: UNetConfig | VAEConfig) -> Iterator[tuple[nn.Module, tuple[Input, ...]]]:
    """The upsampling of each level to the one above, finest first, with random weights and an argument for a call."""
    side, depth = _finest(config)
    for level, width in list(enumerate(config.widths))[1:]:
        x = torch.randn(UPSAMPLED_ROWS, width, *depth, *[max(side >> level, 1)] * 2)
        yield Upsample(config.dims, width, depth=isinstance(config, UNetConfig) and config.down_depth), (x,)


def _finest(config: UNetConfig | VAEConfig) -> tuple[int, tuple[int, ...]]:
    """Side of the finest level, and the depth of volumes."""
    side = (UNET_SIDE if isinstance(config, UNetConfig) else VAE_SIDE) // (config.dims - 1)
    return side, (DEPTH,) if config.dims == 3 else ()
