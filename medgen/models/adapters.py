"""Adapters from files: which model they belong to, and that model with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from medgen.artifacts.model_file import Model, open_model
from medgen.artifacts.provenance import Provenance, derive, fingerprint
from medgen.config import convert
from medgen.errors import DataError, UsageError
from medgen.models.facts import AdapterFacts
from medgen.models.peft_folder import PeftAdapter, read_peft_folder
from medgen.nets.lora.four_bit import rounded
from medgen.nets.lora.low_rank import DOWN, UP, Change
from medgen.nets.options import LoraConfig
from medgen.reporting import Reporter

KIND = "adapter"


@dataclass(frozen=True)
class Adapter:
    """An adapter of one model, and how strongly it is to act: 1 as trained, 0 not at all."""

    path: Path
    strength: float
    source: Model | PeftAdapter
    provenance: Provenance
    known: dict[str, str]
    facts: AdapterFacts | None
    """None: its files do not say to which model it belongs."""

    @classmethod
    def open(cls, given: str) -> Self:
        """The adapter `FILE[:STRENGTH]`, or a folder in the layout of peft; UsageError for a strength that is none."""
        path, strength = _parsed(given)
        if path.is_dir():
            folder = read_peft_folder(path)
            made = derive("import-adapter", {}, sources=fingerprint([folder.digest]))
            return cls(path, strength, folder, made, {made.id: folder.digest}, None)
        model = open_model(path, kind=KIND)
        facts = AdapterFacts.read(model.facts, str(path))
        return cls(path, strength, model, model.provenance, model.digests(), facts)

    @property
    def digest(self) -> str:
        """Digest of its weights and settings."""
        return self.source.digest

    def digests(self) -> dict[str, str]:
        """Content digests of this adapter and its inputs."""
        return self.known

    def changes(self, *, ema: bool = True) -> dict[str, Change]:
        """The changes of layers by their names, as trained; averaged ones if `ema` and the file has them."""
        if isinstance(self.source, PeftAdapter):
            return self.source.changes
        weights = self.source.weights(ema=ema)
        scale = convert(LoraConfig, self.source.config, str(self.path)).scale
        names = [name.removesuffix(DOWN) for name in weights if name.endswith(DOWN)]
        if not names or {*weights} != {name + end for name in names for end in (DOWN, UP)}:
            raise DataError(f"{self.path}: does not hold the two matrices of each layer; train the adapter again")
        return {name: Change(weights[name + DOWN], weights[name + UP], scale) for name in names}

    def at_strength(self) -> dict[str, Change]:
        """The changes of layers by their names, scaled by the strength."""
        return {name: change._replace(scale=self.strength * change.scale) for name, change in self.changes().items()}


def open_adapters(given: Iterable[str], reporter: Reporter) -> list[Adapter]:
    """The adapters `FILE[:STRENGTH]`; a warning for each that does not say to which model it belongs."""
    adapters = [Adapter.open(one) for one in given]
    for adapter in adapters:
        if adapter.facts is None:
            reporter.warn(f"{adapter.path}: does not say which model it was trained on; only shapes can be compared")
    return adapters


def adapted_weights(model: Model, adapters: Sequence[Adapter], *, ema: bool = True) -> dict[str, Tensor]:
    """The weights of `model` with its adapters in them, float32.

    Adapters are trained on averaged weights, so these are what they change; `ema` chooses between the adapters' own
    averages and last weights. Weights that an adapter saw in 4 bits are rounded likewise.
    DataError for an adapter of another model, UsageError for one given twice.
    """
    weights = dict(model.weights(ema=ema or bool(adapters)))  # what an opened model holds stays as it is
    four_bit = {name for one in adapters if one.facts and one.strength for name in one.facts.four_bit}
    for name in sorted(four_bit):
        if f"{name}.weight" in weights:  # where it is not, the adapter belongs to another model, as is told below
            weights[f"{name}.weight"] = rounded(weights[f"{name}.weight"])
    seen: set[str] = set()
    for adapter in adapters:
        if adapter.digest in seen:
            raise UsageError(f"{adapter.path}: given twice; give it once, and its strength as {adapter.path}:STRENGTH")
        seen.add(adapter.digest)
        changes = adapter.changes(ema=ema)
        if reason := _misfit(weights, changes) or _other_base(model, adapter):
            raise DataError(f"{adapter.path}: {reason}")
        for name, change in changes.items():
            weights[f"{name}.weight"] = weights[f"{name}.weight"].float() + adapter.strength * change.weight()
    return weights


def adapted_facts(model: Model, adapters: Sequence[Adapter]) -> Mapping[str, Any]:
    """The facts of a model with these adapters: those of the first that was trained with medgen."""
    return next((adapter.facts.model for adapter in adapters if adapter.facts), model.facts)


def _other_base(model: Model, adapter: Adapter) -> str:
    facts = adapter.facts
    if facts is None or (facts.base_kind, facts.base_digest) == (model.kind, model.digest):
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
