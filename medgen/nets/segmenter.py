"""A light UNet that segments images: what it learns from pairs of images and masks shows how useful they are."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.nets.blocks import Downsample, ResidualBlock, Upsample, convolution

LEVELS = 3
PATCH = 2
"""Side of the patches that the finest level sees as one: at full size, nearly all time would be spent there."""
GROUP = 4
"""Channels that are normalised together; it divides the width."""
NORM_EPS = 1e-5


class Segmenter(nn.Module):
    """Maps images to the logits of classes, at the images' own size (Ronneberger et al. 2015).

    There is one residual block per level on the way down and one on the way up; widths double from level to level.
    """

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.input = convolution(2, channels * PATCH**2, width)
        self.down = nn.ModuleList(_block(one, one) for one in widths)
        self.shrink = nn.ModuleList(
            nn.Sequential(Downsample(2, fine), convolution(2, fine, coarse, kernel=1))
            for fine, coarse in pairwise(widths)
        )
        self.middle = _block(widths[-1], widths[-1])
        self.grow = nn.ModuleList(
            nn.Sequential(convolution(2, coarse, fine, kernel=1), Upsample(2, fine))
            for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(_block(2 * fine, fine) for fine in widths[:-1])
        self.output = nn.Sequential(
            nn.GroupNorm(width // GROUP, width, NORM_EPS), nn.SiLU(), convolution(2, width, classes * PATCH**2)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [-1, 1] to logits (B, classes, H, W)."""
        height, width = images.shape[-2:]
        step = PATCH * 2 ** (LEVELS - 1)
        x = F.pad(images, (0, -width % step, 0, -height % step), mode="replicate")
        x = self.input(F.pixel_unshuffle(x, PATCH))
        skips = []
        for block, shrink in zip(self.down[:-1], self.shrink, strict=True):
            x = block(x)
            skips.append(x)
            x = shrink(x)
        x = self.middle(self.down[-1](x))
        for block, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            x = block(torch.cat([skips.pop(), grow(x)], dim=1))
        logits = F.pixel_shuffle(self.output(x), PATCH)
        return logits[..., :height, :width]


def _block(in_channels: int, out_channels: int) -> ResidualBlock:
    return ResidualBlock(2, in_channels, out_channels, groups=out_channels // GROUP, norm_eps=NORM_EPS)
