"""Fixed image features: a perceptual distance and Frechet features that need no download and no training.

A pyramid of oriented derivative-of-Gaussian filters in quadrature pairs (Freeman & Adelson 1991), contrast
normalised (Heeger 1992) for the perceptual distance; for Frechet features their energies and the energies of these
energies (as in a scattering transform, Bruna & Mallat 2013), averaged over a coarse grid so that position counts.
Every filter follows from a formula, so the features are the same on each machine and with each version of torch.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.errors import ConfigError, DataError
from medgen.nets.compute import exact_float32

VERSION = "oriented-energy-1"
RADIUS = 5
SIGMA = 1.2
"""Standard deviation across a filter's orientation in pixels; along it, twice that."""
CONTRAST = 0.02
"""Filter response (to an image in [-1, 1]) at which normalisation and compression set in."""
BRIGHTNESS = 3.0
"""Weight of local brightness, so that it counts as much as compressed responses do."""


class FixedFeatures(nn.Module):
    """Features of images (B, C, H, W) in [-1, 1], any C (its mean is taken), sides of at least 2^scales pixels."""

    bank: Tensor
    binomial: Tensor

    def __init__(self, scales: int = 4, orientations: int = 8) -> None:
        super().__init__()
        if scales < 1 or orientations < 2 or orientations % 2:
            raise ConfigError(f"{scales} scales, {orientations} orientations: at least 1, and an even number above 0")
        self.scales = scales
        self.orientations = orientations
        bank = filter_bank(orientations)
        text = f"{VERSION} scales={scales} orientations={orientations} contrast={CONTRAST} brightness={BRIGHTNESS}\n"
        rounded = (bank * 1e6).round().to(torch.int32).flatten().tolist()
        self.digest = hashlib.sha256((text + " ".join(map(str, rounded))).encode()).hexdigest()
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("bank", bank.float(), persistent=False)  # (2 * orientations + 1, 1, k, k)
        self.register_buffer("binomial", torch.outer(row, row)[None, None], persistent=False)

    @exact_float32()
    def maps(self, x: Tensor) -> list[Tensor]:
        """Contrast-normalised responses of each scale, finest first: (B, 3 * orientations + 1, H / 2^s, W / 2^s)."""
        maps = []
        for level in self._pyramid(x):
            even, odd, spot = self._responses(level)
            responses = torch.cat([even, odd, spot, _energy(even, odd)], dim=1)
            contrast = responses.square().mean(dim=1, keepdim=True)
            maps.append(responses * torch.rsqrt(contrast + CONTRAST**2))
        return maps

    @exact_float32()
    def pooled(self, x: Tensor) -> Tensor:
        """Features for a Frechet distance, (B, F); F = 468 with 4 scales and 8 orientations."""
        features = []
        levels = self._pyramid(x)
        for scale, level in enumerate(levels):
            even, odd, spot = self._responses(level)
            energy = _energy(even, odd)
            detail = level - F.conv2d(_extend(level, 2), self.binomial)  # noise and sharpness
            features += [
                _compress(_grid_mean(detail.abs(), 4)),
                _compress(_grid_mean(energy, 2)),
                _compress(energy.std(dim=(2, 3))),
                _compress(_grid_mean(F.relu(spot), 4)),
                _compress(_grid_mean(F.relu(-spot), 4)),
                level.std(dim=(2, 3)),
            ]
            if scale < self.scales - 1:
                features.append(_compress(self._second_order(energy)))
        features.append(BRIGHTNESS * _grid_mean(levels[-1], 4))
        return torch.cat(features, dim=1)

    def _pyramid(self, x: Tensor) -> list[Tensor]:
        """Gray image at each scale, (B, 1, H / 2^s, W / 2^s) in float32."""
        smallest = 2**self.scales
        if x.ndim != 4 or min(x.shape[-2:]) < smallest:
            raise DataError(
                f"images of shape {tuple(x.shape)} have no features: expected (B, C, H, W), sides at least {smallest}"
            )
        levels = [x.float().mean(dim=1, keepdim=True)]
        while len(levels) < self.scales:
            levels.append(self._halve(levels[-1]))
        return levels

    def _halve(self, x: Tensor) -> Tensor:
        """(B, 1, h, w) -> (B, 1, h/2, w/2)."""
        return F.conv2d(_extend(x, 2), self.binomial, stride=2)

    def _responses(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1, h, w) -> even and odd responses (B, orientations, h, w), centre-surround response (B, 1, h, w)."""
        responses = _filter(_extend(level, RADIUS), self.bank)
        n = self.orientations
        return responses[:, :n], responses[:, n : 2 * n], responses[:, 2 * n :]

    def _second_order(self, energy: Tensor) -> Tensor:
        """How the energy of each orientation itself varies along half the orientations, (B, orientations^2 / 2)."""
        batch, n, height, width = energy.shape
        coarse = self._halve(energy.reshape(batch * n, 1, height, width))
        responses = _filter(_extend(coarse, RADIUS), self.bank[: 2 * n : 2])  # (B * n, n, h/2, w/2)
        return _energy(responses[:, : n // 2], responses[:, n // 2 :]).mean(dim=(2, 3)).reshape(batch, -1)


def perceptual_distance(features: FixedFeatures, a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of the normalised maps, averaged over scales: a scalar, 0 for equal images."""
    pairs = zip(features.maps(a), features.maps(b), strict=True)
    return torch.stack([F.mse_loss(map_a, map_b) for map_a, map_b in pairs]).mean()


def filter_bank(orientations: int) -> Tensor:
    """Second derivatives, first derivatives (one an orientation) and one Laplacian of Gaussians, in float64.

    (2 * orientations + 1, 1, k, k); each has mean 0, and absolute values that sum to 1.
    """
    axis = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    even, odd = [], []
    for index in range(orientations):
        angle = math.pi * index / orientations
        u = (x * math.cos(angle) + y * math.sin(angle)) / SIGMA
        v = (y * math.cos(angle) - x * math.sin(angle)) / (2 * SIGMA)
        gauss = torch.exp(-0.5 * (u.square() + v.square()))
        even.append((1 - u.square()) * gauss)
        odd.append(u * gauss)
    radius = (x.square() + y.square()) / SIGMA**2
    spot = (2 - radius) * torch.exp(-0.5 * radius)
    bank = torch.stack([*even, *odd, spot])
    bank = bank - bank.mean(dim=(1, 2), keepdim=True)
    bank = bank / bank.abs().sum(dim=(1, 2), keepdim=True)
    return bank[:, None]


def _filter(x: Tensor, bank: Tensor) -> Tensor:
    """Return conv2d(x, bank) for one input channel, (B, 1, h, w) -> (B, n, h - k + 1, w - k + 1).

    Kernel rows become channels: a convolution to one input channel has a slow backward pass on CPU, 5 times this one's.
    """
    size = bank.shape[-1]
    height = x.shape[-2] - size + 1
    rows = torch.cat([x[:, :, row : row + height] for row in range(size)], dim=1)  # (B, k, h - k + 1, w)
    return F.conv2d(rows, bank.transpose(1, 2))  # kernels (n, k, 1, k)


def _energy(even: Tensor, odd: Tensor) -> Tensor:
    return torch.sqrt(even.square() + odd.square() + 1e-8)


def _compress(x: Tensor) -> Tensor:
    """Compress responses of all strengths to a similar range, closer to a Gaussian."""
    return torch.log1p(x / CONTRAST)


def _grid_mean(x: Tensor, cells: int) -> Tensor:
    """(B, C, h, w) -> (B, C * cells^2)."""
    return F.adaptive_avg_pool2d(x, cells).flatten(1)


def _extend(x: Tensor, pad: int) -> Tensor:
    """Repeat the border pixels; unlike F.pad(mode="replicate") its gradient is deterministic on every device."""
    x = torch.cat([x[..., :1].expand(*x.shape[:-1], pad), x, x[..., -1:].expand(*x.shape[:-1], pad)], dim=-1)
    rows = (*x.shape[:-2], pad, x.shape[-1])
    return torch.cat([x[..., :1, :].expand(rows), x, x[..., -1:, :].expand(rows)], dim=-2)
