"""An `AutoencoderKL` of diffusers (Stable Diffusion's VAE) as our VAE, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from medgen.config import convert
from medgen.errors import ConfigError, DataError
from medgen.nets.diffusers.places import Place, check_types, require, to_ours, to_theirs
from medgen.nets.options import VAEConfig
from medgen.nets.vae import VAE

Factors = list[float] | None
TYPES: Mapping[str, Any] = {
    "block_out_channels": list[int],
    "down_block_types": list[str],
    "latents_mean": Factors,
    "latents_std": Factors,
    "scaling_factor": float,
    "shift_factor": float | None,
}
OLD_NAMES = (
    (r"\.attentions\.0\.proj_attn\.", ".attentions.0.to_out.0."),
    (r"\.attentions\.0\.query\.", ".attentions.0.to_q."),
    (r"\.attentions\.0\.key\.", ".attentions.0.to_k."),
    (r"\.attentions\.0\.value\.", ".attentions.0.to_v."),
)
"""Names of attention weights in older files, and today's."""


def vae_from_diffusers(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[VAEConfig, dict[str, Tensor]]:
    """Translate an `AutoencoderKL` (its config.json and its weights) to ours, in float32.

    Takes both names of the attention weights (query / to_q, ...). Raises DataError naming the first setting or weight
    that has no place here.
    """
    ours = _config(config)
    with torch.device("meta"):
        expected = VAE(ours).state_dict()
    return ours, to_ours(places(ours), {_today(name): tensor for name, tensor in weights.items()}, expected)


def vae_to_diffusers(config: VAEConfig, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The inverse: settings and weights of an `AutoencoderKL`. DataError if it has no such VAE."""
    if config.dims != 2:
        raise DataError("the VAE is one of volumes, which diffusers does not have; export a VAE of images")
    levels = len(config.widths)
    settings = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": list(config.widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": config.blocks,
        "norm_num_groups": config.groups,
        "mid_block_add_attention": config.mid_attention,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.quant_conv,
    }
    return settings, to_theirs(places(config), state)


def places(config: VAEConfig) -> Iterator[Place]:
    """Where the weights lie."""
    yield Place("quant", ("quant_conv",))
    yield Place("post_quant", ("post_quant_conv",))
    for ours, direction, resampling in (("encoder", "down", "downsamplers"), ("decoder", "up", "upsamplers")):
        yield Place(f"{ours}.input", (f"{ours}.conv_in",))
        yield Place(f"{ours}.norm", (f"{ours}.conv_norm_out",))
        yield Place(f"{ours}.output", (f"{ours}.conv_out",))
        middle = f"{ours}.mid_block"
        yield from residual(f"{ours}.middle.first", f"{middle}.resnets.0")
        yield from residual(f"{ours}.middle.second", f"{middle}.resnets.1")
        attention, theirs = f"{ours}.middle.attention", f"{middle}.attentions.0"
        yield Place(f"{attention}.norm", (f"{theirs}.group_norm",))
        yield Place(f"{attention}.qkv", (f"{theirs}.to_q", f"{theirs}.to_k", f"{theirs}.to_v"))
        yield Place(f"{attention}.output", (f"{theirs}.to_out.0",))
        for level in range(len(config.widths)):
            block, level_here = f"{ours}.{direction}_blocks.{level}", f"{ours}.levels.{level}"
            for unit in range(config.blocks + (ours == "decoder")):
                yield from residual(f"{level_here}.blocks.{unit}", f"{block}.resnets.{unit}")
            yield Place(f"{level_here}.resample.conv", (f"{block}.{resampling}.0.conv",))


def residual(ours: str, theirs: str) -> Iterator[Place]:
    """Where the weights of a residual block lie, in a VAE or a UNet."""
    for name in ("norm1", "conv1", "norm2", "conv2"):
        yield Place(f"{ours}.{name}", (f"{theirs}.{name}",))
    yield Place(f"{ours}.modulation", (f"{theirs}.time_emb_proj",))
    yield Place(f"{ours}.shortcut", (f"{theirs}.conv_shortcut",))


def _config(config: Mapping[str, Any]) -> VAEConfig:
    """Translate the settings; those that do not change the network are ignored."""
    check_types(config, TYPES)
    quant = bool(config.get("use_quant_conv", True))
    widths = list(config.get("block_out_channels", (64,)))
    supported = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "use_post_quant_conv": quant,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    }
    require(config, supported, "VAE")
    values = {
        "in_channels": config.get("in_channels", 3),
        "out_channels": config.get("out_channels", 3),
        "latent_channels": config.get("latent_channels", 4),
        "widths": widths,
        "blocks": config.get("layers_per_block", 1),
        "groups": config.get("norm_num_groups", 32),
        "mid_attention": config.get("mid_block_add_attention", True),
        "quant_conv": quant,
    }
    try:
        return convert(VAEConfig, values, "config.json")
    except ConfigError as error:
        raise DataError(f"{error}; use another VAE") from None


def _today(name: str) -> str:
    for pattern, replacement in OLD_NAMES:
        name = re.sub(pattern, replacement, name)
    return name
