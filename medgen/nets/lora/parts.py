"""The parts of a UNet that an adapter can be asked for by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn

from medgen.errors import ConfigError
from medgen.nets.lora.low_rank import LAYERS

PATTERNS = {
    "attention": r"\.(cross_)?attention\.",
    "cross-attention": r"\.cross_attention\.",
    "middle-attention": r"^middle\..*\.attention\.",
    "output": r"^outputs\.",
    "text": r"^text\.",
    "all": "",
}
"""What the names of a part's layers match."""


def layers_of(network: nn.Module, parts: Iterable[str]) -> list[str]:
    """Names of the layers of these parts, in the network's order; ConfigError for a part that the network lacks."""
    layers = layers_in(network)
    chosen = set()
    for part in parts:
        found = [name for name in layers if re.search(PATTERNS[part], name)]
        if not found:
            there = ", ".join(name for name, pattern in PATTERNS.items() if any(re.search(pattern, n) for n in layers))
            raise ConfigError(f"lora.parts: the network has no {part} to adapt; it has {there}")
        chosen.update(found)
    return [name for name in layers if name in chosen]


def named_layers(network: nn.Module, ends: Sequence[str]) -> list[str]:
    """Names of the layers that end in one of `ends` as a whole word, such as q_proj; for networks of other libraries.

    ConfigError for an end that no layer has.
    """
    layers = layers_in(network)
    for end in ends:
        if not any(_ends(name, end) for name in layers):
            tails = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise ConfigError(f"the network has no layer '{end}' to adapt; its layers end in {tails}")
    return [name for name in layers if any(_ends(name, end) for end in ends)]


def layers_in(network: nn.Module) -> list[str]:
    """Names of all layers that can be adapted."""
    return [name for name, part in network.named_modules() if isinstance(part, LAYERS) and ".lora." not in name]


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")
