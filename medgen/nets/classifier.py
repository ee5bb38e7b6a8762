"""A light network that answers several questions about an image: a probe for what images show."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.nets.blocks import convolution

LEVELS = (1, 2, 4, 4)
"""Width of each level, relative to the finest; each is half as large as the one before."""
GROUP = 4
"""Channels that are normalised together; it divides the width."""
CELLS = 4
"""Side of the grid on which the last features are averaged, so that it counts where something is."""
AROUND, CONTRAST = 7, 5.0
"""The network also sees how each pixel differs from the mean of so many by so many around it, and so much amplified:
otherwise the norms, which follow an image's broad light and shade, leave little of a finding of one or two pixels."""
NORM_EPS = 1e-5


class Classifier(nn.Module):
    """Maps images to the logits of each question: `answers` names how many answers each has."""

    def __init__(self, channels: int, answers: Sequence[int], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 2 * channels
        for level, after in enumerate(width * factor for factor in LEVELS):
            if level:  # the maximum, so that what is small is not averaged away
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            layers += [convolution(2, before, after), nn.GroupNorm(after // GROUP, after, NORM_EPS), nn.SiLU()]
            before = after
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(before * CELLS**2, count) for count in answers)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, C, H, W) in [-1, 1] to logits (B, answers) of each question."""
        x = self.trunk(torch.cat([images, CONTRAST * (images - _surroundings(images))], dim=1))
        x = F.adaptive_avg_pool2d(x, CELLS).flatten(1)
        return [head(x) for head in self.heads]


def _surroundings(images: Tensor) -> Tensor:
    """The mean around each pixel, (B, C, H, W); the margin is repeated outwards."""
    padding = AROUND // 2
    return F.avg_pool2d(F.pad(images, (padding,) * 4, mode="replicate"), AROUND, stride=1)
