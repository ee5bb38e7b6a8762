"""Frozen weights in 4 bits, so that an adapter can be trained where the network itself would not fit (QLoRA).

NormalFloat (Dettmers et al. 2023, 3 and appendix E): in blocks of 64, a weight is the nearest of 16 quantiles of the
normal distribution, times the largest magnitude of its block: 4.5 bits in all. A weight is restored each time it is
used, in the backward pass once more, and never kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv3d_input

from medgen.nets.blocks import Upsample
from medgen.nets.lora.low_rank import LAYERS

BLOCK = 64
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
LEAST = 4096
"""Fewest weights of a layer for which 4 bits pay."""
EXACT = ("down.input", "outputs.", "time.", "head_times.")
"""Prefixes of a UNet's first, last and time layers: they are small, and their errors would affect everything."""


def packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight of any shape with an even number n of elements -> codes (n / 2,) uint8, two a byte, and float32 scales.

    There is one scale for each block of `BLOCK` elements: the largest magnitude in it.
    """
    flat = weight.detach().float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True)
    shares = (blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)).flatten()[: len(flat)]
    levels = torch.tensor(LEVELS, device=weight.device)
    codes = torch.bucketize(shares, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)  # the nearest level
    return codes[0::2] << 4 | codes[1::2], scales.flatten()


def restored(codes: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight of this shape that `packed` encoded, each value the nearest of its block's 16 levels."""
    pairs = torch.stack([codes >> 4, codes & 15], dim=1).flatten().long()
    values = torch.tensor(LEVELS, device=codes.device)[pairs]
    return (values * scales.repeat_interleave(BLOCK)[: len(values)]).view(shape).to(dtype)


def rounded(weight: Tensor) -> Tensor:
    """The float32 weight that a network in 4 bits computes with."""
    return restored(*packed(weight), weight.shape)


class FourBit(nn.Module):
    """A frozen layer that stores its weight in 4 bits; a mixin of the layer classes below."""

    codes: Tensor
    scales: Tensor
    whole: torch.Size
    """Shape of the weight."""

    @property
    def weight(self) -> Tensor:
        """The restored weight."""
        return restored(self.codes, self.scales, self.whole)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x."""
        product: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return product


class FourBitLinear(FourBit, nn.Linear):  # type: ignore[override]
    """nn.Linear in 4 bits."""


class FourBitConv2d(FourBit, nn.Conv2d):  # type: ignore[override]
    """nn.Conv2d in 4 bits."""


class FourBitConv3d(FourBit, nn.Conv3d):  # type: ignore[override]
    """nn.Conv3d in 4 bits."""


CLASSES: dict[type[nn.Module], type[FourBit]] = {
    nn.Linear: FourBitLinear, nn.Conv2d: FourBitConv2d, nn.Conv3d: FourBitConv3d,
}  # fmt: skip


class _Product(torch.autograd.Function):
    """The product of a layer with its input, whose gradient needs neither the input nor the restored weight of then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        if isinstance(layer, nn.Linear):
            return F.linear(x, layer.weight, layer.bias)
        convolved: Tensor = layer._conv_forward(x, layer.weight, layer.bias)
        return convolved

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layer = ctx.layer
        weight = layer.weight.to(gradient.dtype)
        if isinstance(layer, nn.Linear):
            return gradient @ weight, None
        of_input = conv2d_input if isinstance(layer, nn.Conv2d) else conv3d_input
        window = layer.stride, layer.padding, layer.dilation, layer.groups
        return of_input(ctx.shape, weight, gradient, *window), None  # type: ignore[no-untyped-call]


def quantize(network: nn.Module) -> list[str]:
    """Convert the large layers of a network to 4 bits, in place, and freeze them; returns their names."""
    names = [name for name, part in network.named_modules() if _large(name, part)]
    for name in names:
        layer: Any = network.get_submodule(name)
        for own in layer.parameters(recurse=False):  # not of a change below it
            own.requires_grad_(False)
        codes, scales = packed(layer.weight)
        whole = layer.weight.shape
        del layer.weight
        layer.__class__ = CLASSES[type(layer)]  # so that it stays a layer of its kind, with its name, bias and hooks
        layer.whole = whole
        layer.register_buffer("codes", codes, persistent=False)
        layer.register_buffer("scales", scales, persistent=False)
    for part in network.modules():
        if isinstance(part, Upsample) and isinstance(part.conv, FourBit):
            part.stepwise = True
    return names


def in_four_bits(network: nn.Module) -> tuple[str, ...]:
    """Names of a network's layers that are in 4 bits."""
    return tuple(name for name, part in network.named_modules() if isinstance(part, FourBit))


def _large(name: str, part: nn.Module) -> bool:
    if type(part) not in LAYERS or name.startswith(EXACT) or ".lora." in name:
        return False
    size: int = part.weight.numel()  # type: ignore[operator]
    return size >= LEAST and size % 2 == 0


def size_of(network: nn.Module) -> int:
    """Bytes of all parameters and buffers of a network."""
    return sum(part.nbytes for part in (*network.parameters(), *network.buffers()))
