"""The units of which UNet and VAE are built, and what can be done with them one after another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from medgen.nets.blocks import ResidualBlock
from medgen.nets.unet_trunk import Unit


def units(network: nn.Module) -> Iterator[nn.Module]:
    """The outermost units of a network, which hold nearly all of its weights and of what a backward pass needs."""
    for child in network.children():
        if isinstance(child, Unit | ResidualBlock):
            yield child
        else:
            yield from units(child)


def recompute_units(network: nn.Module) -> None:
    """Let each unit keep only its input, and compute all else once more in the backward pass (Chen et al. 2016).

    Gradients are the same to the bit where the same input always gives the same output.
    """
    for unit in units(network):
        unit.forward = partial(checkpoint, unit.forward, use_reentrant=False)
