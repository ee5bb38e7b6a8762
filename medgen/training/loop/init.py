"""Initial weights: a medgen model, or a VAE folder in the layout of diffusers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from torch import Tensor, nn

from medgen.artifacts.model_file import open_model
from medgen.artifacts.provenance import Provenance, derive, fingerprint
from medgen.artifacts.schema import as_bytes
from medgen.config import OptionsT, convert
from medgen.errors import DataError
from medgen.models.diffusers_folder import read_diffusers_folder
from medgen.nets.options import VAEConfig


@dataclass(frozen=True)
class InitialWeights(Generic[OptionsT]):
    """The network that a training starts from."""

    config: OptionsT
    weights: dict[str, Tensor]
    provenance: Provenance
    known: dict[str, str]

    def digests(self) -> dict[str, str]:
        """Content digests by id."""
        return self.known

    def fill(self, model: nn.Module) -> None:
        """Put the weights into `model`; DataError if they do not fit."""
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"the weights to begin from do not fit the network: {reason}") from None


def read_model(path: Path, kind: str, config: type[OptionsT]) -> InitialWeights[OptionsT]:
    """A model of medgen, with its averaged weights where it has them."""
    model = open_model(path, kind=kind)
    return InitialWeights(convert(config, model.config, str(path)), model.weights(), model.provenance, model.digests())


def read_vae(path: Path) -> InitialWeights[VAEConfig]:
    """A VAE: a folder in the layout of diffusers, or else a model of medgen."""
    if not path.is_dir():
        return read_model(path, "vae", VAEConfig)
    vae = read_diffusers_folder(path)
    running = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict.items()):
        running.update(name.encode())
        running.update(as_bytes(tensor.contiguous().numpy()))
    digest = running.hexdigest()
    provenance = derive("import-vae", {}, sources=fingerprint([digest]))
    return InitialWeights(vae.config, vae.state_dict, provenance, {provenance.id: digest})
