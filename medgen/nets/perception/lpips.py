"""LPIPS, a learned perceptual distance, with weights that the user supplies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.errors import DataError
from medgen.nets.compute import exact_float32

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation per channel, on the range [-1, 1] (RGB)."""
SMALLEST = 32
"""Side below which the coarsest layer of a backbone is empty."""


def _alex() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
    )  # fmt: skip


def _vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for stage, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        layers += [nn.MaxPool2d(2, 2)] if stage else []
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


# The builder of each backbone; the layers, numbered as in torchvision, after which features are taken; their widths.
BACKBONES = {
    "alex": (_alex, {1: 64, 4: 192, 7: 384, 9: 256, 11: 256}),
    "vgg": (_vgg, {3: 64, 8: 128, 15: 256, 22: 512, 29: 512}),
}


class LPIPS(nn.Module):
    """Weighted squared distance of unit-normalised features, averaged over space (Zhang et al. 2018, eq. 1)."""

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: str) -> None:
        super().__init__()
        build, taps = BACKBONES[backbone]
        self.backbone = backbone
        self.features = build()
        self.taps = list(taps)
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(1, width, 1, 1)) for width in taps.values())
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.digest = ""

    @classmethod
    def of_weights(cls, weights: Mapping[str, Tensor], where: str) -> Self:
        """From `features.N.weight` and `.bias` as torchvision names them, and `linK.weight` (1, C, 1, 1).

        The heads may also have their names in the published files, `linK.model.1.weight`. DataError naming `where` and
        what is missing.
        """
        backbone = "vgg" if "features.28.weight" in weights else "alex"
        network = cls(backbone)
        named = {}
        for name in network.state_dict():
            room, _, rest = name.partition(".")
            aliases = (name,) if room == "features" else (f"lin{rest}.weight", f"lin{rest}.model.1.weight")
            found = next((weights[alias] for alias in aliases if alias in weights), None)
            if found is None:
                raise DataError(
                    f"{where}: no '{aliases[0]}': expected the features of {backbone} as torchvision names them, and "
                    "the heads lin0.weight to lin4.weight"
                )
            named[name] = found
        try:
            network.load_state_dict(named)
        except RuntimeError as error:
            raise DataError(f"{where}: not LPIPS weights: {' '.join(str(error).split())[:200]}") from None
        running = hashlib.sha256(backbone.encode())
        for name in sorted(named):
            running.update(named[name].float().contiguous().numpy().tobytes())
        network.digest = running.hexdigest()
        return network.eval().requires_grad_(False)

    @exact_float32()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of a and b (B, C, H, W) in [-1, 1], C = 1 or 3 (RGB): (B,), 0 for equal images.

        DataError for sides below 32 or another number of channels.
        """
        if a.shape[1] not in (1, 3) or min(a.shape[-2:]) < SMALLEST:
            raise DataError(f"LPIPS takes 1 or 3 channels and sides of at least {SMALLEST}; got {tuple(a.shape)}")
        x = (torch.cat([a, b]).float().expand(-1, 3, -1, -1) - self.shift) / self.scale
        total = x.new_zeros(len(a))
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                unit_a, unit_b = F.normalize(x, dim=1, eps=1e-10).chunk(2)
                head = self.heads[self.taps.index(index)]
                total = total + ((unit_a - unit_b).square() * head).sum(1).mean((1, 2))
        return total
