"""PatchGAN discriminator for the adversarial term of VAE training (Isola et al. 2017, 3.2.2)."""

from __future__ import annotations

from torch import Tensor, nn

from medgen.errors import DataError
from medgen.nets.options import DiscriminatorConfig


class PatchDiscriminator(nn.Module):
    """Judge each patch of an image: one logit per patch, high where it looks real.

    Group norm replaces the paper's batch norm, so that a logit does not depend on the rest of the batch.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * min(2**layer, 8) for layer in range(config.layers + 1)]
        steps: list[nn.Module] = [nn.Conv2d(config.in_channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for layer in range(config.layers):
            stride = 2 if layer < config.layers - 1 else 1
            steps += [
                nn.Conv2d(widths[layer], widths[layer + 1], 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(8, widths[layer + 1]),
                nn.LeakyReLU(0.2),
            ]
        steps.append(nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.steps = nn.Sequential(*steps)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [-1, 1] to logits (B, 1, h, w)."""
        config = self.config
        smallest = 3 * 2**config.layers  # two unstrided convolutions each take off one pixel at 1 / 2^layers
        if x.ndim != 4 or x.shape[1] != config.in_channels or min(x.shape[-2:]) < smallest:
            raise DataError(
                f"images of shape {tuple(x.shape)} do not fit the discriminator: expected (B, C, H, W), "
                f"C = {config.in_channels}, sides of at least {smallest}; use fewer layers for smaller images"
            )
        logits: Tensor = self.steps(x)
        return logits
