"""Initial weights: those of a trained network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import msgspec
from msgspec.structs import replace
from torch import Tensor, nn

from medgen.artifacts.provenance import Provenance
from medgen.config import OptionsT, convert
from medgen.diffusion.options import ScheduleConfig
from medgen.errors import ConfigError, DataError
from medgen.models.facts import Facts
from medgen.models.opening import open_network
from medgen.nets.options import UNetConfig


@dataclass(frozen=True)
class InitialWeights(Generic[OptionsT]):
    """The network that a training starts from."""

    path: Path
    config: OptionsT
    weights: dict[str, Tensor]
    provenance: Provenance
    known: dict[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the model says about itself besides."""

    @property
    def digest(self) -> str:
        """Digest of the model."""
        return self.known[self.provenance.id]

    def digests(self) -> dict[str, str]:
        """Content digests by id."""
        return self.known

    def fill(self, model: nn.Module) -> None:
        """Put the weights into `model`, which then holds them alone; DataError if they do not fit."""
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"the weights to begin from do not fit the network: {reason}") from None
        self.weights.clear()


def read_model(path: Path, kind: str, config: type[OptionsT]) -> InitialWeights[OptionsT]:
    """A trained network: a model of medgen, with its averaged weights where it has them, or a folder of diffusers."""
    model = open_network(path, kind)
    network = convert(config, model.config, str(path))
    return InitialWeights(path, network, model.weights(), model.provenance, model.digests(), model.facts)


def as_base(options: OptionsT, base: InitialWeights[UNetConfig] | None) -> OptionsT:
    """The options of a training that keeps to the model that it begins from: what is left at its default is as there.

    What is not, `check_like` refuses where it differs. ConfigError without a model.
    """
    if base is None:
        raise ConfigError("--lora tunes a trained model and keeps it unchanged; name it with --init")
    theirs = {
        "network": replace(base.config, heads=UNetConfig().heads),  # which the learner sets
        "schedule": convert(ScheduleConfig, base.facts["schedule"], str(base.path)),
        "objective": base.facts["objective"],
    }
    default = type(options)()
    return replace(
        options, **{name: one for name, one in theirs.items() if getattr(options, name) == getattr(default, name)}
    )


SHARED_FACTS = (
    "space", "schedule", "objective", "vector_fields", "vocabulary", "modalities", "vae_digest", "latent_scale",
    "latent_shift",
)  # fmt: skip
"""What a model must agree in with what is trained from it, besides its shape."""


def check_like(path: Path, theirs: OptionsT, told: Mapping[str, Any], ours: OptionsT, facts: Facts) -> None:
    """DataError that names everything in which the model in `path` differs from what is trained from it.

    `theirs` and `told` are its configuration and facts, `ours` and `facts` those of the training.
    """
    known = type(facts).read(told, str(path))
    pairs = [(f"network.{name}", getattr(theirs, name), getattr(ours, name)) for name in ours.__struct_fields__]
    pairs += [(name, getattr(known, name), getattr(facts, name)) for name in SHARED_FACTS if hasattr(facts, name)]
    unlike = [f"{name} ({_short(there)} there, {_short(here)} here)" for name, there, here in pairs if there != here]
    if unlike:
        raise DataError(
            f"{path}: not what this training can begin from, since these differ: {', '.join(unlike)}; set them as they "
            "are there, or take another --init"
        )


def _short(value: object) -> str:
    text = str(msgspec.to_builtins(value))
    return text if len(text) <= 40 else f"{text[:37]}..."
