"""A model on disk: one .safetensors with weights, EMA weights and, under one metadata key, all facts about them."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from medgen.artifacts.model_record import ModelRecord, read_record
from medgen.artifacts.outputs.whole import atomic_file
from medgen.artifacts.provenance import Identified, Provenance, all_digests
from medgen.artifacts.tensors.file import in_memory, not_finite, read_tensors, tensor_bytes, write_tensors
from medgen.artifacts.tensors.header import TensorHeader
from medgen.errors import DataError

_TAKERS = {
    "vae": "--vae",
    "adapter": "--adapter",
    "denoiser": "'medgen generate'",
    "interpolator": "'medgen interpolate'",
    "normalizer": "'medgen normalize'",
    "selector": "'medgen select'",
}


@dataclass(frozen=True)
class Model(abc.ABC):
    """A trained network as it is kept: what it says about itself, and its weights on demand."""

    path: Path
    record: ModelRecord

    @property
    def kind(self) -> str:
        """What the network is for: vae, denoiser, ..."""
        return self.record.kind

    @property
    def config(self) -> dict[str, Any]:
        """The network's configuration."""
        return self.record.config

    @property
    def facts(self) -> dict[str, Any]:
        """Value ranges, scaling and the like, as stored by the training."""
        return self.record.facts

    @property
    def digest(self) -> str:
        """Digest of weights, configuration and facts."""
        return self.record.digest

    @property
    def provenance(self) -> Provenance:
        """The graph that ends in this model."""
        return self.record.provenance

    def digests(self) -> dict[str, str]:
        """Content digests of this model and its inputs."""
        return {**self.record.inputs, self.provenance.id: self.digest}

    @abc.abstractmethod
    def weights(self, *, ema: bool = True) -> dict[str, torch.Tensor]:
        """The state dict: the moving average if `ema` and there is one, else the raw weights.

        DataError if any of it is damaged or not finite.
        """


@dataclass(frozen=True)
class ModelFile(Model):
    """An opened model file; tensors are read on demand."""

    header: TensorHeader

    def weights(self, *, ema: bool = True) -> dict[str, torch.Tensor]:
        """The state dict: the moving average if `ema` and there is one, else the raw weights.

        DataError if any of it is damaged or not finite.
        """
        prefix = "ema." if ema and any(name.startswith("ema.") for name in self.header.tensors) else "model."
        read = self._read([name for name in self.header.tensors if name.startswith(prefix)])
        return {name.removeprefix(prefix): tensor for name, tensor in read.items()}

    def verify(self) -> None:
        """Read everything and recompute the digest; DataError if the file is damaged or its weights are not finite."""
        self._check_digest(self._read(self.header.tensors))

    def _read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        if self.header.checksums is None:  # medgen 0.1 wrote only the digest of all tensors
            self._check_digest(read_tensors(self.path, self.header, self.header.tensors))
        tensors = in_memory(read_tensors(self.path, self.header, names))
        if name := not_finite(tensors):
            raise DataError(f"{self.path}: weight '{name}' is not finite; train the model again")
        return tensors

    def _check_digest(self, tensors: Mapping[str, torch.Tensor]) -> None:
        if _digest(self.kind, self.config, self.facts, tensors) != self.digest:
            raise DataError(f"{self.path}: damaged: its content does not match its digest")


def save_model(
    path: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    ema: Mapping[str, torch.Tensor] | None = None,
    facts: Mapping[str, Any],
    provenance: Provenance,
    inputs: Iterable[Identified] = (),
    force: bool = False,
) -> ModelFile:
    """Write a model, completely or not at all. The same arguments give the same bytes."""
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    tensors.update({f"ema.{name}": tensor for name, tensor in (ema or {}).items()})
    if name := not_finite(tensors):
        raise DataError(f"{path}: not written: weight '{name}' is not finite; train again, with a lower learning rate")
    plain_config, plain_facts = msgspec.to_builtins(dict(config)), msgspec.to_builtins(dict(facts))
    record = ModelRecord(
        kind=kind,
        config=plain_config,
        facts=plain_facts,
        provenance=provenance,
        inputs=dict(sorted(all_digests(inputs).items())),
        digest=_digest(kind, plain_config, plain_facts, tensors),
    )
    with atomic_file(path, force=force) as temporary:
        write_tensors(temporary, tensors, msgspec.to_builtins(record))
    return open_model(path)


def open_model(path: Path, *, kind: str | None = None) -> ModelFile:
    """Open a model file; DataError if it is not one, is damaged, or is not of `kind`."""
    record, header = read_record(path)
    if kind is not None and record.kind != kind:
        taker = f"; {_TAKERS[record.kind]} takes it" if record.kind in _TAKERS else ""
        raise DataError(f"{path}: is a model of kind '{record.kind}'; expected '{kind}'{taker}")
    return ModelFile(path, record, header)


def _digest(kind: str, config: Mapping[str, Any], facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    running = hashlib.sha256(msgspec.json.encode([kind, config, facts], order="sorted"))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        running.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        running.update(tensor_bytes(tensor))
    return running.hexdigest()
