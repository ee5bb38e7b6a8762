"""The extractor that `--features` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from medgen.evaluation.features.features import Extractor
    from medgen.evaluation.options import SharedOptions


def open_extractor(options: SharedOptions, device: torch.device) -> Extractor:
    """Built in, a VAE of medgen, or another file."""
    from medgen.artifacts.model_record import read_record
    from medgen.errors import DataError, InputMissingError
    from medgen.evaluation.features.extractors import builtin_extractor, file_extractor, latent_extractor

    if options.features == "builtin":
        return builtin_extractor(device)
    path = Path(options.features)
    if not path.is_file():
        raise InputMissingError(f"--features {path}: neither 'builtin' nor a file")
    try:
        read_record(path)
    except DataError:  # not made by medgen
        return file_extractor(path, options.torchscript, device)
    from medgen.models.trained import FrozenVAE

    autoencoder = FrozenVAE.load(path, device, "float32")  # figures are not to depend on the processor
    return latent_extractor(lambda images: autoencoder.encode(images).mean, autoencoder.model.digest)
