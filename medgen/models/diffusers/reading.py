"""Read the networks of a local folder in the layout of diffusers, such as Stable Diffusion 1.5 or 2.1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgen.artifacts.latent_space import LatentSpace
from medgen.errors import DataError, InputMissingError
from medgen.models.diffusers.files import CONFIG, read_network
from medgen.models.diffusers.imported import ImportedModel
from medgen.models.facts import VAEFacts
from medgen.nets.diffusers.vae import vae_from_diffusers

VAE, UNET = "vae", "unet"
"""Subfolders of a pipeline."""


def import_vae(path: Path) -> ImportedModel:
    """The `AutoencoderKL` in the folder `path`, or in its subfolder `vae`.

    Raises InputMissingError if a file is missing, and DataError if it is not what its name says, or is a pickle.
    """
    folder = _part(path, VAE)
    settings, weights = read_network(folder)
    try:
        config, state = vae_from_diffusers(settings, weights)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None
    space = _latent_space(settings, config.latent_channels, folder)
    return ImportedModel.of(path, "vae", config, state, VAEFacts(None, space.scale, space.shift, None))


def _part(path: Path, name: str) -> Path:
    """The folder of one network: `path` itself, or its subfolder `name` if it is that of a pipeline."""
    if not path.is_dir():
        raise InputMissingError(f"{path}: no such folder")
    return path if (path / CONFIG).exists() or not (path / name).is_dir() else path / name


def _latent_space(settings: Mapping[str, Any], channels: int, folder: Path) -> LatentSpace:
    """How the pipeline scales and shifts latents for its networks."""
    factor, shift = settings.get("scaling_factor", 1.0), settings.get("shift_factor") or 0.0
    means, stds = settings.get("latents_mean"), settings.get("latents_std")
    if means is None or stds is None:
        return LatentSpace(factor, shift)
    if not len(means) == len(stds) == channels:
        raise DataError(f"{folder / CONFIG}: latents_mean and latents_std do not fit latent_channels = {channels}")
    return LatentSpace(tuple(factor / std for std in stds), tuple(means))
