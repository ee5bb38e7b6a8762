"""Open a trained network, whatever holds it: a model file, or a folder in the layout of diffusers."""

from __future__ import annotations

from pathlib import Path

from medgen.artifacts.model_file import Model, open_model
from medgen.errors import DataError
from medgen.models.diffusers.imported import grey_digest
from medgen.models.diffusers.reading import import_denoiser, import_vae

IMPORTS = {"vae": import_vae, "denoiser": import_denoiser}
"""What a folder can hold, by kind."""


def open_network(path: Path, kind: str) -> Model:
    """The network of `kind` at `path`; DataError if there is another, or it is damaged."""
    if not path.is_dir():
        return open_model(path, kind=kind)
    if kind not in IMPORTS:
        raise DataError(f"{path}: is a folder, and no folder holds a model of kind '{kind}'; give a model file")
    return IMPORTS[kind](path)


def open_vae(path: Path, *, channels: int = 0, digest: str = "") -> Model:
    """The VAE at `path`; of a folder, the variant for images of so many channels, or that with this digest.

    A folder's VAE of colour images has a grey variant: it takes a grey image as one of equal channels, and gives the
    mean of its channels.
    """
    if not path.is_dir():
        return open_model(path, kind="vae")
    vae = import_vae(path)
    grey = digest == grey_digest(vae.digest) or channels == 1
    return vae.grey() if grey and vae.config["in_channels"] > 1 else vae
