"""A `UNet2DConditionModel` of diffusers, as Stable Diffusion 1 and 2 have it, as our UNet, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from medgen.config import convert
from medgen.errors import ConfigError, DataError
from medgen.nets.diffusers.places import Place, check_types, require, to_ours, to_theirs
from medgen.nets.diffusers.vae import residual
from medgen.nets.options import UNetConfig
from medgen.nets.unet import UNet

WIDENING = 4
"""Width of the embedding of time / width of the finest level."""
TYPES: Mapping[str, Any] = {
    "attention_head_dim": int | list[int],
    "block_out_channels": list[int],
    "down_block_types": list[str],
    "sample_size": int | tuple[int, int] | None,
}
SUPPORTED: Mapping[str, object] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
}
"""Settings of theirs that our UNet needs as they are here; that is what Stable Diffusion 1 and 2 have."""


def unet_from_diffusers(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], null: Tensor
) -> tuple[UNetConfig, dict[str, Tensor]]:
    """Translate a `UNet2DConditionModel` (its config.json and its weights) to ours, in float32.

    null (1, L, context_width): states of the empty text, which are "no condition" for the network. Raises DataError
    naming the first setting or weight that has no place here.
    """
    ours = _config(config, null.shape[1])
    with torch.device("meta"):
        expected = UNet(ours).state_dict()
    if null.shape != expected["null_context"].shape:
        raise DataError(
            f"states of {null.shape[2]} numbers from the text encoder do not fit cross_attention_dim = "
            f"{ours.context_width}; get the matching folders"
        )
    return ours, {**to_ours(places(ours), weights, expected), "null_context": null.float()}


def unet_to_diffusers(
    config: UNetConfig, state: Mapping[str, Tensor], sample_size: int | list[int]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The inverse: settings and weights of a `UNet2DConditionModel`.

    sample_size: side or sides of the latents that it is meant for. The projections around a transformer are linear
    layers where all heads have one width, as in Stable Diffusion 2, else 1x1 convolutions, as in Stable Diffusion 1.
    DataError if our UNet has what theirs has not, except a text encoder.
    """
    linear = len({level.head_width for level in config.levels_down}) == 1
    settings = _settings(config)
    if unlike := _unlike(config, settings):
        raise DataError(
            f"the network has {unlike}, which Stable Diffusion has not; only networks of its shape, as "
            "train-diffusion --init FOLDER makes them, can be exported to diffusers"
        )
    settings |= {"sample_size": sample_size, "use_linear_projection": linear}
    return settings, to_theirs(places(config, linear=linear), state)


def places(config: UNetConfig, *, linear: bool = True) -> Iterator[Place]:
    """Where the weights lie."""
    yield Place("time.first", ("time_embedding.linear_1",))
    yield Place("time.second", ("time_embedding.linear_2",))
    yield Place("down.input", ("conv_in",))
    yield Place("outputs.0.0", ("conv_norm_out",))
    yield Place("outputs.0.2", ("conv_out",))
    yield from _unit("middle.first", "mid_block", 0, linear=linear)
    yield from residual("middle.second", "mid_block.resnets.1")
    for level in range(len(config.widths)):
        for ours, theirs, units, resampling in (
            (f"down.levels.{level}", f"down_blocks.{level}", config.blocks, "downsamplers"),
            (f"up.levels.{level}", f"up_blocks.{level}", config.blocks + 1, "upsamplers"),
        ):
            for unit in range(units):
                yield from _unit(f"{ours}.{unit}", theirs, unit, linear=linear)
            yield Place(f"{ours}.{units}.conv", (f"{theirs}.{resampling}.0.conv",))


def _unit(ours: str, block: str, number: int, *, linear: bool) -> Iterator[Place]:
    """Where the weights of a residual block and its transformer lie."""
    yield from residual(f"{ours}.residual", f"{block}.resnets.{number}")
    ours, outer = f"{ours}.transformer", f"{block}.attentions.{number}"
    inner = f"{outer}.transformer_blocks.0"
    yield Place(f"{ours}.norm", (f"{outer}.norm",))
    yield Place(f"{ours}.input", (f"{outer}.proj_in",), pointwise=not linear)
    yield Place(f"{ours}.output", (f"{outer}.proj_out",), pointwise=not linear)
    for norm in ("norm1", "norm2", "norm3"):
        yield Place(f"{ours}.{norm}", (f"{inner}.{norm}",))
    for attention, theirs in (("attention", f"{inner}.attn1"), ("cross_attention", f"{inner}.attn2")):
        yield Place(f"{ours}.{attention}.query", (f"{theirs}.to_q",))
        yield Place(f"{ours}.{attention}.key_value", (f"{theirs}.to_k", f"{theirs}.to_v"))
        yield Place(f"{ours}.{attention}.output", (f"{theirs}.to_out.0",))
    yield Place(f"{ours}.widen", (f"{inner}.ff.net.0.proj",))
    yield Place(f"{ours}.narrow", (f"{inner}.ff.net.2",))


def _config(config: Mapping[str, Any], null_length: int) -> UNetConfig:
    """Translate the settings; those that do not change the network are ignored."""
    check_types(config, TYPES)
    widths = list(config.get("block_out_channels", (320, 640, 1280, 1280)))
    down = list(config.get("down_block_types", (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")))
    names = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D", "DownBlock2D": "UpBlock2D"}
    if unknown := [name for name in down if name not in names]:
        raise DataError(f"config.json: down_block_types has {unknown[0]}, which is not supported; use another UNet")
    require(config, {**SUPPORTED, "up_block_types": [names[name] for name in reversed(down)]}, "UNet")
    heads = config.get("attention_head_dim", 8)  # their name for the number of heads
    heads = list(heads) if isinstance(heads, Sequence) else [heads] * len(widths)
    if len(heads) != len(widths) or any(width % count for width, count in zip(widths, heads, strict=True)):
        raise DataError(f"config.json: attention_head_dim = {heads} does not fit block_out_channels = {widths}")
    attends = [name.startswith("Cross") for name in down]
    values = {
        "in_channels": config.get("in_channels", 4),
        "out_channels": config.get("out_channels", 4),
        "widths": widths,
        "blocks": config.get("layers_per_block", 2),
        "attention": ["transformer" if attend else "none" for attend in attends],
        "mid_attention": "transformer",
        "cross_attention": attends,
        "head_width": [width // count for width, count in zip(widths, heads, strict=True)],
        "time_width": WIDENING * widths[0],
        "modulation": "shift",
        "groups": config.get("norm_num_groups", 32),
        "norm_eps": config.get("norm_eps", 1e-5),
        "context_width": config.get("cross_attention_dim", 1280),
        "null_length": null_length,
        "dropout": config.get("dropout", 0.0),
    }
    try:
        return convert(UNetConfig, values, "config.json")
    except ConfigError as error:
        raise DataError(f"{error}; use another UNet") from None


def _settings(config: UNetConfig) -> dict[str, Any]:
    """Their settings for our UNet, where it has no more than theirs."""
    attends = [level.attention != "none" for level in config.levels_down]
    down = ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends]
    return {
        **SUPPORTED,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.widths),
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "layers_per_block": config.blocks,
        "attention_head_dim": [
            width // level.head_width for width, level in zip(config.widths, config.levels_down, strict=True)
        ],
        "norm_num_groups": config.groups,
        "norm_eps": config.norm_eps,
        "cross_attention_dim": config.context_width,
        "dropout": config.dropout,
    }


def _unlike(config: UNetConfig, settings: Mapping[str, Any]) -> str:
    """What our UNet has and theirs has not, in words; "" if nothing."""
    again = replace(_config(settings, config.null_length), text=config.text)
    names = [name for name in config.__struct_fields__ if getattr(config, name) != getattr(again, name)]
    return ", ".join(f"network.{name}" for name in names)
