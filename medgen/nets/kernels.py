"""Alternative ways to compute the same result: which is faster depends on processor, shape and precision."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from medgen.nets.attention import CrossAttention, SelfAttention
from medgen.nets.blocks import Upsample
from medgen.nets.compute import lay_channels_last
from medgen.nets.transformer import TokenAttention


class Kernels(NamedTuple):
    """The way chosen for each computation; results agree to rounding. The defaults were fastest in our tests."""

    channels_last: bool = True
    """Channels side by side in memory, for inference on images; it gains nothing for volumes."""
    fused_upsampling: bool = True
    """One transposed convolution instead of repetition and convolution."""
    attention_formula: bool = True
    """On a CPU, attention in bfloat16 to few tokens is computed by its formula instead of torch's fused kernel."""

    def __str__(self) -> str:
        """The choices that differ from the defaults, in words."""
        names = ("the plain layout", "upsampling in two steps", "torch's kernel of attention")
        return " and ".join(name for name, default in zip(names, self, strict=True) if not default)


DEFAULT = Kernels()


def let_weights_change(network: nn.Module) -> None:
    """Give up what `use_kernels` computed from weights: from here on they are trained."""
    for part in network.modules():
        if isinstance(part, Upsample):
            part.thaw()


def use_kernels(network: nn.Module, kernels: Kernels) -> None:
    """Make all parts of a network, whose weights no longer change, compute in these ways."""
    if kernels.channels_last and not any(isinstance(part, nn.Conv3d) for part in network.modules()):
        lay_channels_last(network)
    for part in network.modules():
        if isinstance(part, Upsample):
            part.fused = kernels.fused_upsampling
            if part.fused:
                part.freeze()
        elif isinstance(part, SelfAttention | CrossAttention | TokenAttention):
            part.formula = kernels.attention_formula
