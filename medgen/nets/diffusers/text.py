"""A `CLIPTextModel` of transformers, which Stable Diffusion 1 and 2 read their prompts with, as our text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from medgen.config import convert
from medgen.errors import ConfigError, DataError
from medgen.nets.diffusers.places import Place, check_types, require, to_ours, to_theirs
from medgen.nets.options import TextConfig
from medgen.nets.text.encoder import WIDENING, TextEncoder

PREFIX = "text_model."
IGNORED = "embeddings.position_ids"
"""A table of the numbers 0, 1, ... that older files hold."""
PLACES = "places"
WIDTH = "hidden_size"


def text_from_clip(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[TextConfig, dict[str, Tensor]]:
    """Translate a `CLIPTextModel` (its config.json and its weights) to ours, in float32.

    The states have config's hidden_size numbers. Raises DataError naming the first setting or weight that has no place.
    """
    check_types(config, dict.fromkeys((WIDTH, "num_attention_heads"), int))
    width = config.get(WIDTH, 512)
    require(
        config, {"intermediate_size": WIDENING * width, "layer_norm_eps": 1e-5, "attention_dropout": 0.0}, "encoder"
    )
    heads = config.get("num_attention_heads", 8)
    if width % heads:
        raise DataError(f"config.json: num_attention_heads = {heads} does not divide {WIDTH} = {width}")
    values = {
        "vocabulary": config.get("vocab_size", 49408),
        "length": config.get("max_position_embeddings", 77),
        "layers": config.get("num_hidden_layers", 12),
        "head_width": width // heads,
        "causal": True,
        "activation": config.get("hidden_act", "quick_gelu"),
    }
    try:
        ours = convert(TextConfig, values, "config.json")
    except ConfigError as error:
        raise DataError(f"{error}; use another text encoder") from None
    with torch.device("meta"):
        expected = TextEncoder(ours, width, 0).state_dict()
    theirs = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
    theirs.pop(IGNORED, None)
    state = to_ours(
        places(ours), theirs, {f"{PLACES}.weight" if name == PLACES else name: t for name, t in expected.items()}
    )
    state[PLACES] = state.pop(f"{PLACES}.weight")
    return ours, state


def text_to_clip(
    config: TextConfig, width: int, state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The inverse: settings and weights of a `CLIPTextModel`; `width` is that of the states."""
    settings = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        WIDTH: width,
        "intermediate_size": WIDENING * width,
        "projection_dim": width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": width // config.head_width,
        "max_position_embeddings": config.length,
        "hidden_act": config.activation,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
    }
    weights = to_theirs(places(config), {f"{PLACES}.weight": state[PLACES], **state})
    return settings, {PREFIX + name: tensor for name, tensor in weights.items()}


def places(config: TextConfig) -> Iterator[Place]:
    """Where the weights lie."""
    yield Place("words", ("embeddings.token_embedding",))
    yield Place(PLACES, ("embeddings.position_embedding",))
    yield Place("norm", ("final_layer_norm",))
    for number in range(config.layers):
        ours, theirs = f"blocks.{number}", f"encoder.layers.{number}"
        yield Place(f"{ours}.qkv", tuple(f"{theirs}.self_attn.{part}_proj" for part in "qkv"))
        yield Place(f"{ours}.output", (f"{theirs}.self_attn.out_proj",))
        yield Place(f"{ours}.norm1", (f"{theirs}.layer_norm1",))
        yield Place(f"{ours}.norm2", (f"{theirs}.layer_norm2",))
        yield Place(f"{ours}.widen", (f"{theirs}.mlp.fc1",))
        yield Place(f"{ours}.narrow", (f"{theirs}.mlp.fc2",))
