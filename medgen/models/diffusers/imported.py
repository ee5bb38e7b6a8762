"""A network of a diffusers folder in the form of a model file: its configuration, weights, facts and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import msgspec
from torch import Tensor

from medgen.artifacts.model_file import Model
from medgen.artifacts.model_record import ModelRecord
from medgen.artifacts.provenance import derive, fingerprint
from medgen.artifacts.schema import as_bytes
from medgen.config import Options, convert, plain
from medgen.models.facts import Facts
from medgen.nets.options import VAEConfig
from medgen.nets.vae import to_grey


@dataclass(frozen=True)
class ImportedModel(Model):
    """Its weights are in memory, in float32, since its digest is theirs; they can be taken once."""

    state: dict[str, Tensor]

    @classmethod
    def of(cls, path: Path, kind: str, config: Options, state: dict[str, Tensor], facts: Facts) -> Self:
        """The network of `kind` that was found at `path`."""
        digest = _digest(state)
        provenance = derive(f"import-{kind}", {}, sources=fingerprint([digest]))
        described: dict[str, Any] = msgspec.to_builtins(facts)
        return cls(path, ModelRecord(kind, plain(config), described, provenance, {}, digest), state)

    def weights(self, *, ema: bool = True) -> dict[str, Tensor]:
        """The state dict, of which a folder has one; it is handed over, so that memory holds it once."""
        taken = dict(self.state)
        self.state.clear()
        return taken

    def grey(self) -> Self:
        """The grey variant of a VAE of colour images, under a digest of its own."""
        config, state = to_grey(convert(VAEConfig, self.config, str(self.path)), self.state)
        record = msgspec.structs.replace(self.record, config=plain(config), digest=grey_digest(self.digest))
        return replace(self, record=record, state=state)


def grey_digest(digest: str) -> str:
    """The digest of the grey variant of the VAE with this digest."""
    return hashlib.sha256(f"{digest} grey".encode()).hexdigest()


def _digest(state: Mapping[str, Tensor]) -> str:
    running = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        running.update(name.encode())
        running.update(as_bytes(tensor.contiguous().numpy()))
    return running.hexdigest()
