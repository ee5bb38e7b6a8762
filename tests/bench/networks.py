"""The same networks in three libraries: equal widths and levels, and as equal in parameters as their options allow.

UNets: medgen's blocks scale and shift by the time embedding where the others only shift, so medgen's embedding is half
as wide. VAEs: MONAI's has no middle of its own and as many blocks a level in the decoder as in the encoder; it gets the
blocks that medgen's and diffusers' have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.unet import UNet
from medgen.nets.vae import VAE

from . import monai_networks
from .monai_networks import BLOCKS, HEAD_WIDTH, LATENT_CHANNELS


class Denoiser(NamedTuple):
    """A UNet and how it is called."""

    network: nn.Module
    call: Callable[[Any, Tensor, Tensor], Tensor]


class Autoencoder(NamedTuple):
    """A VAE, how it encodes (to the mean) and decodes, and both with a draw in between, as in training."""

    network: nn.Module
    encode: Callable[[Any, Tensor], Tensor]
    decode: Callable[[Any, Tensor], Tensor]
    train: Callable[[Any, Tensor], tuple[Tensor, Tensor]]  # reconstruction, mean


def unets(widths: tuple[int, ...], *, flash: bool) -> dict[str, Denoiser]:
    """UNets on latents, attention below the first level; `flash`: MONAI's attention by torch's fused one."""
    from diffusers import UNet2DModel

    below = len(widths) - 1
    diffusers = UNet2DModel(
        sample_size=32, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, block_out_channels=widths,
        layers_per_block=BLOCKS, attention_head_dim=HEAD_WIDTH, norm_num_groups=min(32, widths[0]),
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * below),
        up_block_types=(*["AttnUpBlock2D"] * below, "UpBlock2D"),
    )  # fmt: skip
    return {
        "medgen": Denoiser(UNet(unet_config(widths)), lambda net, x, t: net(x, t)),
        "MONAI": Denoiser(monai_networks.unet(widths, flash=flash), lambda net, x, t: net(x, t)),
        "diffusers": Denoiser(diffusers, lambda net, x, t: net(x, t).sample),
    }


def volume_unets(widths: tuple[int, ...], in_channels: int, out_channels: int) -> dict[str, Denoiser]:
    """UNets on stacks of latents; medgen's keeps depth by default, and halves it where it must do MONAI's work."""

    def ours(*, down_depth: bool) -> UNet:
        return UNet(volume_config(widths, in_channels, out_channels, down_depth=down_depth))

    return {
        "medgen": Denoiser(ours(down_depth=True), lambda net, x, t: net(x, t)),
        "medgen, depth kept": Denoiser(ours(down_depth=False), lambda net, x, t: net(x, t)),
        "MONAI": Denoiser(monai_networks.volume_unet(widths, in_channels, out_channels), lambda net, x, t: net(x, t)),
    }


def vaes(widths: tuple[int, ...]) -> dict[str, Autoencoder]:
    """Autoencoders of one channel without attention."""
    from diffusers import AutoencoderKL

    levels = len(widths)
    diffusers = AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=widths, layers_per_block=BLOCKS,
        latent_channels=LATENT_CHANNELS, norm_num_groups=8, mid_block_add_attention=False,
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
    )  # fmt: skip

    def train(net: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction, posterior = net(x)
        return reconstruction, posterior.mean

    def train_diffusers(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        posterior = net.encode(x).latent_dist
        return net.decode(posterior.sample()).sample, posterior.mean

    return {
        "medgen": Autoencoder(
            VAE(vae_config(widths)), lambda net, x: net.encode(x).mean, lambda net, z: net.decode(z), train
        ),
        "MONAI": Autoencoder(
            monai_networks.vae(widths),
            lambda net, x: net.encode(x)[0],
            lambda net, z: net.decode(z),
            lambda net, x: net(x)[:2],
        ),
        "diffusers": Autoencoder(
            diffusers,
            lambda net, x: net.encode(x).latent_dist.mean,
            lambda net, z: net.decode(z).sample,
            train_diffusers,
        ),
    }


def unet_config(widths: tuple[int, ...]) -> UNetConfig:
    """medgen's UNet."""
    return UNetConfig(
        in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, widths=widths, blocks=BLOCKS,
        attention=("none", *["full"] * (len(widths) - 1)), head_width=HEAD_WIDTH, time_width=2 * widths[0],
        groups=min(32, widths[0]),
    )  # fmt: skip


def volume_config(
    widths: tuple[int, ...], in_channels: int, out_channels: int, *, down_depth: bool = True
) -> UNetConfig:
    """medgen's UNet of volumes."""
    return UNetConfig(
        dims=3, in_channels=in_channels, out_channels=out_channels, widths=widths, blocks=BLOCKS,
        attention=("none",) * len(widths), mid_attention="full", head_width=HEAD_WIDTH, groups=min(32, widths[0]),
        time_width=4 * widths[0], down_depth=down_depth,
    )  # fmt: skip


def vae_config(widths: tuple[int, ...]) -> VAEConfig:
    """medgen's VAE."""
    return VAEConfig(widths=widths, latent_channels=LATENT_CHANNELS, blocks=BLOCKS, groups=8)


def counted(kind: str, networks: dict[str, Any]) -> str:
    """How many parameters each has."""
    sizes = {name: sum(p.numel() for p in entry.network.parameters()) / 1e6 for name, entry in networks.items()}
    return f"{kind}: " + ", ".join(f"{name} {size:.2f} M" for name, size in sizes.items())
