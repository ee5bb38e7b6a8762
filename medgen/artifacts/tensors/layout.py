"""The bytes of a .safetensors blob: a length, JSON with types, shapes and offsets, then the data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

KEY = "medgen"
"""The single metadata key that holds all facts: with several, their order would not be fixed."""


class TensorEntry(NamedTuple):
    """Type, shape and length in bytes of one array."""

    name: str
    dtype: str
    shape: Sequence[int]
    size: int


def head(facts: str, entries: Iterable[TensorEntry]) -> bytes:
    """Everything before the data of `entries`, which follow in this order; `facts` is JSON."""
    header: dict[str, Any] = {"__metadata__": {KEY: facts}}
    offset = 0
    for name, dtype, shape, size in entries:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format requires data aligned to 8 bytes
    return len(encoded).to_bytes(8, "little") + encoded
