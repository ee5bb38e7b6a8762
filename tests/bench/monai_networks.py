"""MONAI's networks at the size of medgen's; used by the bench and by the plain scripts that it times."""

from __future__ import annotations

from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from torch import nn

LATENT_CHANNELS = 8
BLOCKS = 2
HEAD_WIDTH = 32


def unet(widths: tuple[int, ...], *, flash: bool = False) -> DiffusionModelUNet:
    """Attention below the first level; `flash`: by torch's fused one."""
    below = len(widths) - 1
    return DiffusionModelUNet(
        spatial_dims=2, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, channels=widths,
        num_res_blocks=BLOCKS, norm_num_groups=min(32, widths[0]), attention_levels=(False, *[True] * below),
        num_head_channels=(0, *[HEAD_WIDTH] * below), use_flash_attention=flash,
    )  # fmt: skip


def volume_unet(widths: tuple[int, ...], in_channels: int, out_channels: int) -> DiffusionModelUNet:
    """In three dimensions, attention in the middle alone; it halves depth with the plane and cannot do otherwise."""
    return DiffusionModelUNet(
        spatial_dims=3, in_channels=in_channels, out_channels=out_channels, channels=widths, num_res_blocks=BLOCKS,
        norm_num_groups=min(32, widths[0]), attention_levels=[False] * len(widths),
        num_head_channels=(*[0] * (len(widths) - 1), HEAD_WIDTH), with_conditioning=False,
    )  # fmt: skip


def vae(widths: tuple[int, ...]) -> AutoencoderKL:
    """With as many blocks as medgen's and diffusers' have: two in the middle, and one more a level in the decoder."""

    def with_blocks(blocks: int) -> AutoencoderKL:
        middle = 2
        return AutoencoderKL(
            spatial_dims=2, in_channels=1, out_channels=1, channels=widths, latent_channels=LATENT_CHANNELS,
            num_res_blocks=(*[blocks] * (len(widths) - 1), blocks + middle), norm_num_groups=8,
            attention_levels=[False] * len(widths), with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
        )  # fmt: skip

    network: nn.Module = with_blocks(BLOCKS)
    network.decoder = with_blocks(BLOCKS + 1).decoder
    return network
