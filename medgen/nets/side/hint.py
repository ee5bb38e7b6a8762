"""Dense Hint Input: turns a mask or image at pixel resolution into features at the resolution at which a UNet works.

Siamese-Diffusion (Qiu et al. 2025) uses it in place of the few strided convolutions of ControlNet (Zhang et al. 2023):
residual blocks at each resolution, with patch merging (Liu et al. 2021, 3.1) between them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from medgen.nets.blocks import convolution, zeroed


class HintBlock(nn.Module):
    """silu(x + conv(silu(conv(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = convolution(2, width, width)
        self.conv2 = convolution(2, width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        return F.silu(x + self.conv2(F.silu(self.conv1(x))))


class PatchMerging(nn.Module):
    """Stack 2 x 2 neighbours as channels, normalize them, and project them to half as many channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, 2C, H/2, W/2)."""
        patches = F.pixel_unshuffle(x, 2).movedim(1, -1)  # (B, H/2, W/2, 4C), the places of a channel side by side
        merged: Tensor = self.reduce(self.norm(patches)).movedim(-1, 1)
        return merged


class DenseHint(nn.Module):
    """Features of a hint (B, C, H, W) at 1/factor of its sides, zero at first.

    Only `entry` depends on the hint's number of channels, so that a second kind of hint only needs its own entry.
    """

    def __init__(self, channels: int, width: int, factor: int, out_width: int) -> None:
        super().__init__()
        self.entry = convolution(2, channels, width)
        layers: list[nn.Module] = [HintBlock(width), convolution(2, width, 2 * width), HintBlock(2 * width)]
        width *= 2
        while factor > 1:
            layers += [PatchMerging(width), convolution(2, 2 * width, 2 * width), HintBlock(2 * width)]
            width, factor = 2 * width, factor // 2
        self.body = nn.Sequential(*layers)
        self.exit = zeroed(convolution(2, width, out_width))

    def forward(self, hint: Tensor) -> Tensor:
        """Map a hint (B, C, H, W) to (B, out_width, H/factor, W/factor)."""
        return self.features(self.entry(hint))

    def features(self, entered: Tensor) -> Tensor:
        """The features of a hint that has passed `entry`, (B, width, H, W)."""
        out: Tensor = self.exit(self.body(entered))
        return out
