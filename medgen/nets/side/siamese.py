"""Two branches through one UNet and its side network: one sees the mask, the other the image as well.

Siamese-Diffusion (Qiu et al. 2025). The branches see the same x_t at the same time, so that the trunk's way down and
middle run once for both; the side network and the way up take both as one batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medgen.nets.blocks import convolution
from medgen.nets.condition import Condition
from medgen.nets.options import Hint, UNetConfig
from medgen.nets.side.network import SideNetwork
from medgen.nets.unet import UNet


class Siamese(nn.Module):
    """A UNet with a side network, `unet`, and what the image branch needs besides; sampling needs `unet` alone."""

    def __init__(self, config: UNetConfig, image_channels: int, hint: Hint) -> None:
        super().__init__()
        self.unet = UNet(config)
        self.side.begin_as(self.unet.down, self.unet.middle)
        self.hint = hint
        self.image_entry = convolution(2, image_channels, self.side.hint.entry.out_channels)

    @property
    def config(self) -> UNetConfig:
        """The configuration of the UNet."""
        return self.unet.config

    @property
    def side(self) -> SideNetwork:
        """The side network."""
        if self.unet.side is None:
            raise ValueError("the UNet has no side network")
        return self.unet.side

    def forward(
        self, x: Tensor, time: Tensor, condition: Condition, image: Tensor, weight: float
    ) -> tuple[Tensor, Tensor]:
        """Predictions of the mask branch and of the image branch for x (B, C, h, w), both (B, out_channels, h, w).

        condition: has a mask (B, classes, H, W). image (B, C', H, W): the one that x is a noisy version of. weight in
        [0, 1]: that of the image's residuals, added to those of the mask, which get no gradient from the image branch.
        """
        if condition.mask is None:
            raise ValueError("the mask branch needs a mask")
        seen = self.unet.see(x, time, condition)
        entered = self.side.hint.entry(condition.mask)
        shown = self.image_entry(image)
        if self.hint == "concat":
            shown = shown + entered
        both = seen.repeated(2)
        residuals = self.side.residuals(
            x.repeat(2, 1, 1, 1), both.embedding, both.tokens, self.side.hint.features(torch.cat([entered, shown]))
        )
        mixed = [torch.cat([mask, mask.detach() + weight * rest]) for mask, rest in (r.chunk(2) for r in residuals)]
        of_mask, of_image = self.unet.answer(both, mixed).chunk(2)
        return of_mask, of_image
