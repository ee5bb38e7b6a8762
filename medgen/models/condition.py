"""The parts of a condition: where each comes from, and what a network needs to accept it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace
from torch import Tensor

from medgen.errors import ConfigError
from medgen.models.text.prompts import Prompts
from medgen.nets.condition import Condition
from medgen.nets.options import UNetConfig


class Part(NamedTuple):
    """A part of `Condition`, identified by its field name there."""

    field: str
    """The field of the network's configuration that enables the part; 0 or none = not enabled."""
    told: str
    """The part's name in messages."""
    source: str
    """Where a network gets it from, in messages."""


PARTS = {
    "vector": Part("vector_size", "condition vector", "a set with labels"),
    "mask": Part("side", "mask", "a set with masks"),
    "words": Part("text", "text", "a set with texts"),
    "tokens": Part("context_width", "text", "a set with texts"),
    "token_mask": Part("context_width", "text", "a set with texts"),
    "pooled": Part("pooled_width", "pooled text", "a set with texts"),
    "modality": Part("modalities", "modality", "a set with modalities"),
}
"""Every part by its name in `Condition`, which is also that of the array in a batch."""


def condition_of(batch: Mapping[str, Tensor]) -> Condition:
    """The condition of a batch of samples, from its arrays."""
    return Condition(**{name: batch[name] for name in PARTS if name in batch})


def check_fed(network: UNetConfig, fed: Collection[str], learner: str) -> None:
    """ConfigError for a part of `network` that would be trained without ever seeing its input.

    `fed` names the parts of the condition that the learner gives the network.
    """
    for name, part in PARTS.items():
        if name not in fed and getattr(network, part.field):
            raise ConfigError(
                f"network.{part.field}: the {learner} gives its network no {part.told}, so that what takes one would "
                f"be trained blind (it comes from {part.source}); leave it out"
            )
    if network.heads != UNetConfig().heads:
        raise ConfigError(f"network.heads: the {learner} knows its outputs and would train no other; leave it out")


def fitted_to_vectors(network: UNetConfig, fields: Sequence[str]) -> UNetConfig:
    """`network` with one vector entry per vector field of the set; ConfigError if another number was configured."""
    if network.vector_size not in (0, len(fields)):
        told = f"the set's vectors have {len(fields)} fields" if fields else "the set has no vectors"
        raise ConfigError(f"network.vector_size = {network.vector_size}: {told}; leave it out")
    return replace(network, vector_size=len(fields))


def fitted_to_texts(network: UNetConfig, prompts: Prompts | None) -> UNetConfig:
    """`network` for as many modalities as its prompts have; the pooled text is as wide as its tokens.

    One whose text encoder was made elsewhere stays as it is.
    """
    if prompts is None or network.null_length:
        return network
    return replace(
        network,
        pooled_width=network.pooled_width or network.context_width,
        modalities=len(prompts.modalities),
    )
