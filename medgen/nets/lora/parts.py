"""The named parts of a UNet that an adapter can change."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
"""Patterns that the names of a part's layers match."""


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


def layers_in(network: nn.Module) -> list[str]:
    """Names of all layers that can be adapted."""
    return [name for name, part in network.named_modules() if isinstance(part, LAYERS) and ".lora." not in name]
