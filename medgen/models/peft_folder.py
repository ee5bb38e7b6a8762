"""Adapters in the layout of the library peft: a folder with `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from medgen.artifacts.schema import as_bytes
from medgen.artifacts.tensors.foreign import read_weights
from medgen.errors import DataError, InputMissingError
from medgen.models.diffusers.files import read_json
from medgen.nets.lora.low_rank import Change

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "use_dora": False,
    "lora_bias": False,
    "modules_to_save": None,
    "layer_replication": None,
    "trainable_token_indices": None,
}
"""Settings with which an adapter is low-rank changes of layers and nothing else; we read and write no others."""

OTHER_CHANGES = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "target_parameters"),
    *("use_bdlora", "use_qalora"),
)
"""Settings with which it is something else, where they are given."""
BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Where a training began without a change to the weights of the model; others, such as PiSSA, first take a part of them
away, and their changes belong to the rest."""


class PeftAdapter(NamedTuple):
    """The changes of layers by their names, and the digest of all of them."""

    changes: dict[str, Change]
    digest: str


def read_peft_folder(path: Path) -> PeftAdapter:
    """An adapter that peft saved, or `write_peft_folder`.

    Raises InputMissingError if a file is missing, and DataError for what is more than low-rank changes of layers.
    """
    for name in (CONFIG, WEIGHTS):
        if not (path / name).exists():
            raise InputMissingError(f"{path / name}: no such file; an adapter's folder holds {CONFIG} and {WEIGHTS}")
    config = read_json(path / CONFIG)
    for key, wanted in PLAIN.items():
        if (given := config.get(key, wanted)) != wanted and given:
            raise DataError(f"{path / CONFIG}: {key} = {given} is not supported; train the adapter without it")
    if key := next((key for key in OTHER_CHANGES if config.get(key)), ""):
        raise DataError(f"{path / CONFIG}: {key} = {config[key]} is not supported; train the adapter without it")
    if (beginning := config.get("init_lora_weights")) not in BEGINNINGS:
        raise DataError(
            f"{path / CONFIG}: init_lora_weights = {beginning}: its changes are to weights that peft had changed "
            "before; save it with path_initial_model_for_weight_conversion"
        )
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in read_weights(path / WEIGHTS).items()}
    names = sorted(name.removesuffix(DOWN) for name in weights if name.endswith(DOWN))
    if strange := {*weights} ^ {name + end for name in names for end in (DOWN, UP)}:
        raise DataError(f"{path / WEIGHTS}: tensor '{min(strange)}' is unknown or lacks its partner; save it again")
    running = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        running.update(name.encode())
        running.update(as_bytes(tensor.contiguous().float().numpy()))
    changes = {
        name: Change(weights[name + DOWN], weights[name + UP], _scale(config, name, len(weights[name + DOWN]), path))
        for name in names
    }
    return PeftAdapter(changes, running.hexdigest())


def write_peft_folder(folder: Path, changes: Mapping[str, Change]) -> None:
    """Write changes of one rank and scale into an existing folder, for `peft.PeftModel.from_pretrained`."""
    import safetensors.torch

    tensors: dict[str, Tensor] = {}
    for name, change in changes.items():
        tensors[PREFIX + name + DOWN] = change.down.contiguous()
        tensors[PREFIX + name + UP] = change.up.contiguous()
    ((rank, scale),) = {(len(change.down), change.scale) for change in changes.values()}
    config = {
        **PLAIN,
        "r": rank,
        "lora_alpha": scale * rank,
        "target_modules": list(changes),
        "lora_dropout": 0.0,
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "task_type": None,
        "base_model_name_or_path": None,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _scale(config: Mapping[str, Any], name: str, rank: int, path: Path) -> float:
    """Factor of a layer's change: alpha / rank, or with use_rslora alpha / sqrt(rank) (Kalajdzievski 2023)."""
    alphas = config.get("alpha_pattern") or {}
    alpha = next((alphas[key] for key in alphas if re.match(rf"(.*\.)?({key})$", name)), config.get("lora_alpha"))
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise DataError(f"{path / CONFIG}: lora_alpha = {alpha} is not a number; save the adapter again")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
