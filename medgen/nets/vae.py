"""Variational autoencoder with a KL term, for 2-D images and for volumes, whose depth is not reduced.

Layout as in Rombach et al. 2022 ("Latent diffusion", kl-f4/f8), so that weights of that family can be loaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.errors import DataError
from medgen.nets.attention import SelfAttention
from medgen.nets.blocks import Downsample, ResidualBlock, Upsample, convolution
from medgen.nets.options import VAEConfig


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over latents; mean and logvar are (B, c, *S) in float32, logvar within [-30, 20]."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw mean + std * noise. Noise is drawn on the generator's device, so that CPU seeds work for any device."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.logvar) * noise.to(self.mean.device)

    def kl(self) -> Tensor:
        """KL(posterior || N(0, 1)) of each sample in nats, *summed* over the latent (Kingma & Welling 2014, app. B)."""
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(dim=1)  # (B,)


class Bottleneck(nn.Module):
    """Residual unit, optional self-attention with one head, residual unit."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.first = _unit(config, width, width)
        self.attention: nn.Module = nn.Identity()
        if config.mid_attention:
            self.attention = SelfAttention(
                width, kind="full", head_width=width, groups=config.groups, norm_eps=config.norm_eps
            )
        self.second = _unit(config, width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, C, *S) to the same shape."""
        out: Tensor = self.second(self.attention(self.first(h)))
        return out


class Level(nn.Module):
    """Residual units, then an optional change of resolution."""

    def __init__(self, config: VAEConfig, in_width: int, out_width: int, blocks: int, resample: nn.Module) -> None:
        super().__init__()
        widths = [in_width] + [out_width] * blocks
        self.blocks = nn.Sequential(*(_unit(config, a, b) for a, b in itertools.pairwise(widths)))
        self.resample = resample

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, C, *S) to (B, C', *S')."""
        out: Tensor = self.resample(self.blocks(h))
        return out


class Encoder(nn.Module):
    """Image (B, C, [D,] H, W) -> mean and logvar, (B, 2c, [D,] H/f, W/f)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dims, widths = config.dims, config.widths
        self.input = convolution(dims, config.in_channels, widths[0])
        self.levels = nn.Sequential()
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            down = nn.Identity() if last else Downsample(dims, width, trailing_pad=True)
            self.levels.append(Level(config, widths[max(level - 1, 0)], width, config.blocks, down))
        self.middle = Bottleneck(config)
        self.norm = nn.GroupNorm(config.groups, widths[-1], config.norm_eps)
        self.output = convolution(dims, widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, *S) to mean and logvar side by side, (B, 2c, *S/f)."""
        h = self.middle(self.levels(self.input(x)))
        out: Tensor = self.output(F.silu(self.norm(h)))
        return out


class Decoder(nn.Module):
    """Latent (B, c, [D,] h, w) -> image (B, C, [D,] f h, f w)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dims, widths = config.dims, config.widths[::-1]
        self.input = convolution(dims, config.latent_channels, widths[0])
        self.middle = Bottleneck(config)
        self.levels = nn.Sequential()
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            up = nn.Identity() if last else Upsample(dims, width)
            self.levels.append(Level(config, widths[max(level - 1, 0)], width, config.blocks + 1, up))
        self.norm = nn.GroupNorm(config.groups, widths[-1], config.norm_eps)
        self.output = convolution(dims, widths[-1], config.out_channels)

    def forward(self, z: Tensor) -> Tensor:
        """Map z (B, c, *S) to (B, C, *fS)."""
        h = self.levels(self.middle(self.input(z)))
        out: Tensor = self.output(F.silu(self.norm(h)))
        return out


class VAE(nn.Module):
    """Maps images in [-1, 1], (B, C, H, W) or (B, C, D, H, W), to a Gaussian over latents and back."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        c = config.latent_channels
        self.encoder = Encoder(config)
        self.quant: nn.Module = nn.Identity()
        self.post_quant: nn.Module = nn.Identity()
        if config.quant_conv:
            self.quant = convolution(config.dims, 2 * c, 2 * c, kernel=1)
            self.post_quant = convolution(config.dims, c, c, kernel=1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Posterior:
        """Map x (B, C, *S) to a Posterior over (B, c, *S/f); DataError if an in-plane side is not a multiple of f."""
        config = self.config
        _check_shape(x, config.dims, config.in_channels, "image")
        if any(side % config.factor for side in x.shape[-2:]):
            raise DataError(
                f"image of {x.shape[-2]} x {x.shape[-1]} pixels does not fit the VAE: sides must be multiples of "
                f"{config.factor}; resize or crop it in preprocess"
            )
        x = x.to(self.encoder.input.weight.dtype)
        mean, logvar = self.quant(self.encoder(x)).float().chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Tensor) -> Tensor:
        """Map z (B, c, *S) to an image (B, C, *fS), about [-1, 1] and not clamped."""
        _check_shape(z, self.config.dims, self.config.latent_channels, "latent")
        out: Tensor = self.decoder(self.post_quant(z.to(self.decoder.input.weight.dtype)))
        return out

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Posterior]:
        """Decode a sample of x's posterior; returns the reconstruction and the posterior."""
        posterior = self.encode(x)
        return self.decode(posterior.sample(generator)), posterior

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile encoder and decoder, since they are called separately; arguments are those of torch.compile."""
        self.encoder.compile(*arguments, **options)
        self.decoder.compile(*arguments, **options)

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters after the latent: those that decoder-only training changes."""
        return itertools.chain(self.post_quant.parameters(), self.decoder.parameters())

    @property
    def last_layer_weight(self) -> Tensor:
        """Weight of the last convolution, whose gradients balance the adversarial term (Esser et al. 2021, eq. 7)."""
        return self.decoder.output.weight


def to_grey(config: VAEConfig, weights: Mapping[str, Tensor]) -> tuple[VAEConfig, dict[str, Tensor]]:
    """Turn a VAE of C channels into one of a single channel: the same output as for C equal channels, averaged."""
    grey = dict(weights)
    grey["encoder.input.weight"] = weights["encoder.input.weight"].sum(dim=1, keepdim=True)
    for name in ("decoder.output.weight", "decoder.output.bias"):
        grey[name] = weights[name].mean(dim=0, keepdim=True)
    return replace(config, in_channels=1, out_channels=1), grey


def _unit(config: VAEConfig, in_width: int, out_width: int) -> ResidualBlock:
    return ResidualBlock(config.dims, in_width, out_width, groups=config.groups, norm_eps=config.norm_eps)


def _check_shape(x: Tensor, dims: int, channels: int, what: str) -> None:
    if x.ndim != dims + 2 or x.shape[1] != channels:
        axes = "(B, C, H, W)" if dims == 2 else "(B, C, D, H, W)"
        raise DataError(
            f"{what} of shape {tuple(x.shape)} does not fit the network: expected {axes} with C = {channels}"
        )
