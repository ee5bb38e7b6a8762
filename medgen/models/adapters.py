"""Adapters from files: which model they belong to, and that model with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from medgen.artifacts.model_file import Model, open_model
from medgen.artifacts.provenance import Provenance
from medgen.config import convert
from medgen.errors import DataError, UsageError
from medgen.models.facts import AdapterFacts
from medgen.nets.lora.low_rank import DOWN, UP, Change
from medgen.nets.options import LoraConfig

KIND = "adapter"


@dataclass(frozen=True)
class Adapter:
    """An adapter of one model, and how strongly it is to act: 1 as trained, 0 not at all."""

    path: Path
    strength: float
    model: Model
    facts: AdapterFacts

    @classmethod
    def open(cls, given: str) -> Self:
        """The adapter `FILE[:STRENGTH]`; UsageError for a strength that is no number."""
        path, strength = _parsed(given)
        model = open_model(path, kind=KIND)
        return cls(path, strength, model, AdapterFacts.read(model.facts, str(path)))

    @property
    def provenance(self) -> Provenance:
        """The graph that ends in this adapter."""
        return self.model.provenance

    def digests(self) -> dict[str, str]:
        """Content digests of this adapter and its inputs."""
        return self.model.digests()

    def changes(self, *, ema: bool = True) -> dict[str, Change]:
        """The changes of layers by their names, times the strength; averaged ones if `ema` and the file has them."""
        weights = self.model.weights(ema=ema)
        scale = self.strength * convert(LoraConfig, self.model.config, str(self.path)).scale
        names = [name.removesuffix(DOWN) for name in weights if name.endswith(DOWN)]
        if not names or {*weights} != {name + end for name in names for end in (DOWN, UP)}:
            raise DataError(f"{self.path}: does not hold the two matrices of each layer; train the adapter again")
        return {name: Change(weights[name + DOWN], weights[name + UP], scale) for name in names}


def adapted_weights(model: Model, adapters: Sequence[Adapter], *, ema: bool = True) -> dict[str, Tensor]:
    """The weights of `model` with its adapters in them, float32.

    Adapters are trained on averaged weights, so these are what they change; `ema` chooses between the adapters' own
    averages and last weights. DataError for an adapter of another model, UsageError for one given twice.
    """
    weights = model.weights(ema=ema or bool(adapters))
    seen: set[str] = set()
    for adapter in adapters:
        if adapter.model.digest in seen:
            raise UsageError(f"{adapter.path}: given twice; give it once, and its strength as {adapter.path}:STRENGTH")
        seen.add(adapter.model.digest)
        changes = adapter.changes(ema=ema)
        if reason := _misfit(weights, changes) or _other_base(model, adapter):
            raise DataError(f"{adapter.path}: {reason}")
        for name, change in changes.items():
            weights[f"{name}.weight"] = weights[f"{name}.weight"].float() + change.weight()
    return weights


def adapted_facts(model: Model, adapters: Sequence[Adapter]) -> Mapping[str, Any]:
    """What a model with these adapters must say about itself: of its images, what the first adapter was trained on."""
    return adapters[0].facts.model if adapters else model.facts


def _other_base(model: Model, adapter: Adapter) -> str:
    facts = adapter.facts
    if (facts.base_kind, facts.base_digest) == (model.kind, model.digest):
        return ""
    return (
        f"belongs to the {facts.base_kind} {facts.base_digest[:12]}, but {model.path} is the {model.kind} "
        f"{model.digest[:12]}; give the model that it was trained on"
    )


def _misfit(weights: Mapping[str, Tensor], changes: Mapping[str, Change]) -> str:
    """In which layer the changes do not fit the weights; "" if they do."""
    for name, change in changes.items():
        weight = weights.get(f"{name}.weight")
        if weight is None:
            return f"changes a layer {name}, which the model does not have; give the model that it was trained on"
        if change.up[0].numel() != len(change.down) or change.shape != tuple(weight.shape):
            there, here = (" x ".join(map(str, shape)) for shape in (change.shape, weight.shape))
            return (
                f"changes a layer {name} of {there}, and the model's is {here}; give the model that it was trained on"
            )
    return ""


def _parsed(given: str) -> tuple[Path, float]:
    name, colon, text = given.rpartition(":")
    if not colon or Path(given).exists():
        return Path(given), 1.0
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise UsageError(f"--adapter {given}: expected FILE or FILE:STRENGTH with a number")
    return Path(name), strength
