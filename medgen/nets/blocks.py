"""Convolutional building blocks, written once for 2-D images and 3-D volumes."""

from __future__ import annotations

import functools
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Conv = nn.Conv2d | nn.Conv3d


def convolution(dims: int, in_channels: int, out_channels: int, kernel: int = 3) -> Conv:
    """Make a convolution with "same" padding over the last `dims` axes."""
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    return kind(in_channels, out_channels, kernel, padding=kernel // 2)


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def zeroed(module: ModuleT) -> ModuleT:
    """Set all parameters to zero: a residual branch that ends in such a module begins as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); the embedding, if any, scales and shifts the second norm.

    Pre-activation residual unit (He et al. 2016) with adaptive group norm (Dhariwal & Nichol 2021, 4.3). Without
    `scales`, the embedding is added before the second norm, as in Ho et al. 2020.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        norm_eps: float,
        embedding_width: int = 0,
        scales: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, norm_eps)
        self.conv1 = convolution(dims, in_channels, out_channels)
        self.scales = scales
        self.modulation = nn.Linear(embedding_width, (1 + scales) * out_channels) if embedding_width else None
        self.norm2 = nn.GroupNorm(groups, out_channels, norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(convolution(dims, out_channels, out_channels))
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = convolution(dims, in_channels, out_channels, kernel=1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Map x (B, C, *S) and embedding (B, E) to (B, C', *S)."""
        h = self.conv1(F.silu(self.norm1(x)))
        modulation = None
        if self.modulation is not None:
            modulation = self.modulation(embedding)  # (B, 2C') or (B, C')
            modulation = modulation.view(*modulation.shape, *[1] * (x.ndim - 2))
        if modulation is not None and not self.scales:
            h = h + modulation
        h = self.norm2(h)
        if modulation is not None and self.scales:
            scale, shift = modulation.chunk(2, dim=1)
            h = torch.addcmul(shift, h, 1 + scale)
        out: Tensor = self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))
        return out


class Downsample(nn.Module):
    """Halve the sides with a strided convolution; depth only with `depth`.

    `trailing_pad` pads at the far end only, as Stable Diffusion's VAE does, instead of on both sides.
    """

    def __init__(self, dims: int, width: int, *, depth: bool = False, trailing_pad: bool = False) -> None:
        super().__init__()
        self.trailing_pad = trailing_pad
        pad = 0 if trailing_pad else 1
        self.conv: Conv
        if dims == 2:
            self.conv = nn.Conv2d(width, width, 3, stride=2, padding=pad)
        else:
            self.conv = nn.Conv3d(width, width, 3, stride=(2 if depth else 1, 2, 2), padding=(1, pad, pad))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, [D,] H, W) -> (B, C, [D,] H/2, W/2)."""
        if self.trailing_pad:
            x = F.pad(x, (0, 1, 0, 1))
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Double the sides by repetition, then convolve; depth only with `depth`.

    Along a doubled side, the kernel's 3 taps fall on 2 pixels. So the two operations together are one transposed
    convolution whose taps are sums of the kernel's, with 4/9 of the products if two sides are doubled.
    """

    def __init__(self, dims: int, width: int, *, depth: bool = False) -> None:
        super().__init__()
        self.conv = convolution(dims, width, width)
        self.strides = (2, 2) if dims == 2 else (2 if depth else 1, 2, 2)
        self.fused = True
        self.stepwise = False
        """Whether the convolution must be called as such, since an adapter adds to its output."""
        self._frozen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, [D,] H, W) -> (B, C, [D,] 2H, 2W)."""
        if not self.fused or self.stepwise:
            repeated: Tensor = self.conv(F.interpolate(x, scale_factor=[float(stride) for stride in self.strides]))
            return repeated
        kernel = self._kernel() if self._frozen is None else self._frozen
        transposed = F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d
        out: Tensor = transposed(x, kernel, self.conv.bias, stride=self.strides, padding=1)
        return out

    def freeze(self) -> None:
        """Compute the kernel once for all calls, given that the weights no longer change or move."""
        self._frozen = self._kernel().detach()

    def thaw(self) -> None:
        """Let the kernel follow the weights again, which are to change."""
        self._frozen = None

    def _kernel(self) -> Tensor:
        """The kernel of the transposed convolution, (C, C, *taps)."""
        sums = functools.reduce(torch.kron, [_tap_sums(stride, self.conv.weight) for stride in self.strides])
        kernel = self.conv.weight.flatten(2) @ sums  # (C, C, taps)
        return kernel.view(*kernel.shape[:2], *(2 + stride for stride in self.strides)).transpose(0, 1)


def _tap_sums(stride: int, like: Tensor) -> Tensor:
    """Matrix (3, 2 + stride) from the taps of a convolution to those of the transposed convolution of that stride."""
    turned = torch.eye(3, dtype=like.dtype, device=like.device).flip(0)
    return turned if stride == 1 else F.pad(turned, (1, 0)) + F.pad(turned, (0, 1))


OPEN = 4.0
"""Logit of a gate that is open, to 98 %, and that a gradient can still move."""


class AttentionGate(nn.Module):
    """Weight each position of a skip connection by what the decoder sees there (Oktay et al. 2018, eq. 1-2).

    At first, every position passes, as there.
    """

    def __init__(self, dims: int, skip_width: int, gate_width: int) -> None:
        super().__init__()
        hidden = max(1, skip_width // 2)
        self.skip = convolution(dims, skip_width, hidden, kernel=1)
        self.gate = convolution(dims, gate_width, hidden, kernel=1)
        self.weight = zeroed(convolution(dims, hidden, 1, kernel=1))
        nn.init.constant_(self.weight.get_parameter("bias"), OPEN)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Map skip (B, C, *S) and gate (B, G, *S) to (B, C, *S)."""
        weight = torch.sigmoid(self.weight(F.relu(self.skip(skip) + self.gate(gate))))  # (B, 1, *S)
        return skip * weight
