"""A model on disk: one .safetensors with weights, EMA weights and, under one metadata key, all facts about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from medgen.artifacts.atomic import atomic_file
from medgen.artifacts.model_record import ModelRecord, read_record
from medgen.artifacts.provenance import Identified, Provenance, all_digests
from medgen.artifacts.schema import as_bytes
from medgen.errors import DataError

_TAKERS = {
    "vae": "--vae",
    "denoiser": "'medgen generate'",
    "interpolator": "'medgen interpolate'",
    "normalizer": "'medgen normalize'",
}


@dataclass(frozen=True)
class Model:
    """An opened model file; tensors are read when asked for."""

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
        """Ranges, scaling and the like, as the training stored them."""
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

    def weights(self, *, ema: bool = True) -> dict[str, torch.Tensor]:
        """The state dict: the moving average if `ema` and there is one, else the raw weights."""
        with safe_open(self.path, framework="pt") as file:
            names = list(file.keys())
            prefix = "ema." if ema and any(name.startswith("ema.") for name in names) else "model."
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}

    def verify(self) -> None:
        """Recompute the digest; DataError when the file was changed or damaged."""
        with safe_open(self.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
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
) -> Model:
    """Write a model, whole or not at all. The same arguments give the same bytes."""
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    tensors.update({f"ema.{name}": tensor for name, tensor in (ema or {}).items()})
    # clone: safetensors refuses tensors that share storage
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    plain_config, plain_facts = msgspec.to_builtins(dict(config)), msgspec.to_builtins(dict(facts))
    record = ModelRecord(
        kind=kind,
        config=plain_config,
        facts=plain_facts,
        provenance=provenance,
        inputs=dict(sorted(all_digests(inputs).items())),
        digest=_digest(kind, plain_config, plain_facts, tensors),
    )
    # One key only: the order of several is not fixed, and equal runs must give equal bytes.
    metadata = {"medgen": msgspec.json.encode(record, order="sorted").decode()}
    with atomic_file(path, force=force) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return Model(path, record)


def open_model(path: Path, *, kind: str | None = None) -> Model:
    """Open a model file; DataError if it is none, is damaged, or is not of `kind`."""
    record, _ = read_record(path)
    if kind is not None and record.kind != kind:
        taker = f"; {_TAKERS[record.kind]} takes it" if record.kind in _TAKERS else ""
        raise DataError(f"{path}: is a model of kind '{record.kind}'; expected '{kind}'{taker}")
    return Model(path, record)


def _digest(kind: str, config: Mapping[str, Any], facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    running = hashlib.sha256(msgspec.json.encode([kind, config, facts], order="sorted"))
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        running.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        running.update(as_bytes(tensor.reshape(-1).view(torch.uint8).numpy()))
    return running.hexdigest()
