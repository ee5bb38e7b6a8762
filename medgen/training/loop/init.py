"""Initial weights: those of a trained network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import replace
from torch import Tensor, nn

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import SetHeader
from medgen.config import Options, OptionsT, convert
from medgen.diffusion.options import ScheduleConfig
from medgen.errors import DataError
from medgen.models.diffusers.imported import grey_digest
from medgen.models.facts import DenoiserFacts, Facts
from medgen.models.opening import open_network
from medgen.nets.options import UNetConfig

DiffusionOptionsT = TypeVar("DiffusionOptionsT", bound=Options)


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


def as_stable_diffusion(
    options: DiffusionOptionsT, init: InitialWeights[UNetConfig], latents: SetHeader
) -> tuple[DiffusionOptionsT, InitialWeights[UNetConfig]]:
    """The options of a training that begins from Stable Diffusion, which says what it is, and what it begins from.

    DataError unless the set holds `latents` that are scaled as its own. They may be those of its VAE's grey variant.
    """
    where = str(init.path)
    told = DenoiserFacts.read(init.facts, where)
    if latents.kind != told.space or latents.latent_space != told.latent_space:
        raise DataError(
            f"{where}: was trained on latents scaled by {told.latent_scale}, and the set has others; encode the images "
            "by 'medgen extract-latents --vae FOLDER' with its own VAE"
        )
    theirs = {
        "network": init.config,
        "schedule": convert(ScheduleConfig, told.schedule, where),
        "objective": told.objective,
    }
    if latents.vae_digest == grey_digest(told.vae_digest):
        init = dataclasses.replace(init, facts={**init.facts, "vae_digest": latents.vae_digest})
    return replace(options, **theirs), init


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
