"""Files of a folder in the layout of diffusers: settings as JSON, weights as safetensors, never as pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from medgen.artifacts.tensors.foreign import read_weights
from medgen.errors import DataError, InputMissingError, StorageError

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
ENCODER_WEIGHTS = "model.safetensors"
VOCABULARY, MERGES, TOKENIZER_JSON = "vocab.json", "merges.txt", "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SCHEDULER_CONFIG = "scheduler_config.json"
VAE, UNET, TEXT, TOKENIZER, SCHEDULER = "vae", "unet", "text_encoder", "tokenizer", "scheduler"
"""Subfolders of a pipeline."""
HALF = ".fp16"
"""Comes before the suffix of weights in half precision, which are read where there are no others."""
INDEX = ".index.json"
"""End of the name of a file that says which of several files holds which weight."""
PICKLED = {WEIGHTS: "diffusion_pytorch_model.bin", ENCODER_WEIGHTS: "pytorch_model.bin"}
"""Weights that are read, and their names as pickles, which are not."""


def read_network(folder: Path, weights: str = WEIGHTS) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and weights of the network in `folder`.

    Raises InputMissingError if a file is missing, and DataError if it is not what its name says, or is a pickle.
    """
    settings = read_json(folder / CONFIG)
    file, index = folder / weights, folder / f"{weights}{INDEX}"
    if not file.exists() and index.exists():
        return settings, _in_parts(index)
    if not file.exists() and (half := file.with_suffix(f"{HALF}.safetensors")).exists():
        file = half
    if not file.exists():
        if (folder / PICKLED[weights]).exists():
            raise DataError(
                f"{folder}: holds only {PICKLED[weights]}, a pickle, which can run code when it is read; get or save "
                f"the model as {weights}"
            )
        raise InputMissingError(f"{file}: no such file; a network's folder holds {CONFIG} and {weights}")
    return settings, read_weights(file)


def _in_parts(index: Path) -> dict[str, Tensor]:
    """Weights in several files, by the index that says which is where; DataError unless all of them are there."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in places.values()
    ):
        raise DataError(f"{index}: does not say which file holds which weight; get the folder again")
    weights: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        weights |= read_weights(index.parent / name)
    if unlike := weights.keys() ^ places.keys():
        raise DataError(f"{index}: differs from its files in weight '{min(unlike)}'; get the folder again")
    return weights


def read_json(file: Path) -> dict[str, Any]:
    """The settings in a JSON file; InputMissingError or DataError naming the file."""
    try:
        settings = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{file}: expected a JSON object of settings")
    return settings


def read_text(file: Path) -> str:
    """The text of a file; InputMissingError or DataError naming the file."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputMissingError(f"{file}: no such file; is {file.parent} a diffusers folder?") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text: {error}") from None
    except OSError as error:
        raise StorageError(f"{file}: {error.strerror}") from None
