"""A light network that answers several questions about an image: a probe for what images show."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from medgen.nets.blocks import Downsample, ResidualBlock, convolution

LEVELS = 3
PATCH = 2
"""Side of the patches that the finest level sees as one."""
GROUP = 4
"""Channels that are normalised together; it divides the width."""
CELLS = 4
"""Side of the grid on which the last features are averaged, so that it counts where something is."""
NORM_EPS = 1e-5


class Classifier(nn.Module):
    """Maps images to the logits of each question: `answers` names how many answers each has."""

    def __init__(self, channels: int, answers: Sequence[int], width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        layers: list[nn.Module] = [convolution(2, channels * PATCH**2, width), _block(width)]
        for fine, coarse in pairwise(widths):
            layers += [Downsample(2, fine), convolution(2, fine, coarse, kernel=1), _block(coarse)]
        self.trunk = nn.Sequential(*layers, nn.GroupNorm(widths[-1] // GROUP, widths[-1], NORM_EPS), nn.SiLU())
        self.heads = nn.ModuleList(nn.Linear(widths[-1] * CELLS**2, count) for count in answers)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, C, H, W) in [-1, 1] to logits (B, answers) of each question."""
        height, width = images.shape[-2:]
        step = PATCH * 2 ** (LEVELS - 1)
        x = F.pad(images, (0, -width % step, 0, -height % step), mode="replicate")
        x = F.adaptive_avg_pool2d(self.trunk(F.pixel_unshuffle(x, PATCH)), CELLS).flatten(1)
        return [head(x) for head in self.heads]


def _block(width: int) -> ResidualBlock:
    return ResidualBlock(2, width, width, groups=width // GROUP, norm_eps=NORM_EPS)
