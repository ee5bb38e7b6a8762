"""Weights of an `AutoencoderKL` in the diffusers layout (Stable Diffusion's VAE) as weights of our VAE."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medgen.config import convert
from medgen.errors import ConfigError, DataError
from medgen.nets.options import VAEConfig
from medgen.nets.vae import VAE

# Parts of a key, theirs -> ours, applied in this order.
RENAMES = (
    (r"^post_quant_conv\.", "post_quant."),
    (r"^quant_conv\.", "quant."),
    (r"\.conv_in\.", ".input."),
    (r"\.conv_norm_out\.", ".norm."),
    (r"\.conv_out\.", ".output."),
    (r"\.(?:down|up)_blocks\.(\d+)\.resnets\.", r".levels.\1.blocks."),
    (r"\.(?:down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.", r".levels.\1.resample."),
    (r"\.mid_block\.resnets\.0\.", ".middle.first."),
    (r"\.mid_block\.resnets\.1\.", ".middle.second."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".middle.attention.norm."),
    (r"\.mid_block\.attentions\.0\.(?:to_out\.0|proj_attn)\.", ".middle.attention.output."),
    (r"\.mid_block\.attentions\.0\.(?:to_q|query)\.", ".middle.attention.q."),
    (r"\.mid_block\.attentions\.0\.(?:to_k|key)\.", ".middle.attention.k."),
    (r"\.mid_block\.attentions\.0\.(?:to_v|value)\.", ".middle.attention.v."),
    (r"\.conv_shortcut\.", ".shortcut."),
)


def from_diffusers(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[VAEConfig, dict[str, Tensor]]:
    """Translate a diffusers `AutoencoderKL` (its config.json and its weights) to ours, in float32.

    Takes both names of the attention weights (query / to_q, ...). Raises DataError naming the first setting or weight
    that has no place here.
    """
    ours = _config(config)
    state = {_rename(key): value.float() for key, value in weights.items()}
    for where in ("encoder", "decoder"):
        _join_attention(state, f"{where}.middle.attention")
    with torch.device("meta"):
        expected = VAE(ours).state_dict()
    for key in expected.keys() | state.keys():
        if key not in state or key not in expected:
            fault = "lack" if key not in state else "hold"
            raise DataError(f"weights {fault} '{key}', against config.json; get the matching pair of files")
        if state[key].shape != expected[key].shape:
            shapes = f"{tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
            raise DataError(f"weight '{key}' has shape {shapes} as config.json says; get the matching pair of files")
    return ours, state


def _config(config: Mapping[str, Any]) -> VAEConfig:
    """Translate the settings; those that do not change the network are ignored."""
    quant = bool(config.get("use_quant_conv", True))
    widths = list(config.get("block_out_channels", (64,)))
    supported: dict[str, object] = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "use_post_quant_conv": quant,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    }
    for key, value in supported.items():
        given = config.get(key, value)
        if (list(given) if isinstance(given, tuple) else given) != value:
            raise DataError(f"config.json: {key} = {given} is not supported, only {value}; use another VAE")
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


def _rename(key: str) -> str:
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _join_attention(state: dict[str, Tensor], prefix: str) -> None:
    """Stack query, key and value into one projection; some files hold projections as 1x1 convolutions."""
    if f"{prefix}.q.weight" not in state:
        return
    for kind in ("weight", "bias"):
        parts = [state.pop(f"{prefix}.{name}.{kind}", None) for name in "qkv"]
        state[f"{prefix}.qkv.{kind}"] = torch.cat([part for part in parts if part is not None])
    for name in ("qkv", "output"):
        if (weight := state.get(f"{prefix}.{name}.weight")) is not None:
            state[f"{prefix}.{name}.weight"] = weight.flatten(1)
