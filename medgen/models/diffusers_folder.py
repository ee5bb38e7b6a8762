"""Read a local VAE folder in the diffusers layout, such as that of a Stable Diffusion VAE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from medgen.artifacts.tensors.foreign import read_weights
from medgen.errors import DataError, InputMissingError, StorageError
from medgen.nets.diffusers.vae import vae_from_diffusers
from medgen.nets.options import VAEConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED = "diffusion_pytorch_model.bin"


class DiffusersVAE(NamedTuple):
    """A VAE's configuration and weights. The scale of its latents is measured on the images it is trained with."""

    config: VAEConfig
    state_dict: dict[str, Tensor]


def read_diffusers_folder(path: Path) -> DiffusersVAE:
    """Read `config.json` and `diffusion_pytorch_model.safetensors` of an `AutoencoderKL`.

    If the folder holds a whole pipeline, its `vae` subfolder is read. Raises InputMissingError if a file is missing,
    and DataError if it is not what its name says, or is a pickle.
    """
    if not path.is_dir():
        raise InputMissingError(f"{path}: no such folder")
    if not (path / "config.json").exists() and (path / "vae").is_dir():
        path = path / "vae"
    config = _read_config(path / "config.json")
    weights = path / WEIGHTS
    if not weights.exists():
        if (path / PICKLED).exists():
            raise DataError(
                f"{path}: holds only {PICKLED}, a pickle, which can run code when it is read; get or save the model "
                f"as {WEIGHTS}"
            )
        raise InputMissingError(f"{weights}: no such file; a VAE folder holds config.json and {WEIGHTS}")
    tensors = read_weights(weights)
    try:
        ours, state = vae_from_diffusers(config, tensors)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return DiffusersVAE(ours, state)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputMissingError(f"{file}: no such file; a VAE folder holds config.json and {WEIGHTS}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not valid JSON: {error}") from None
    except OSError as error:
        raise StorageError(f"{file}: {error.strerror}") from None
    if not isinstance(config, dict):
        raise DataError(f"{file}: expected a JSON object of settings")
    return config
