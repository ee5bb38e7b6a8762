"""What a model file says about itself, read from its first bytes without loading torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from medgen.artifacts.provenance import Provenance
from medgen.errors import DataError, InputMissingError

MODEL_SCHEMA = "medgen.model/1"
_LONGEST_HEADER = 100 << 20


class ModelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metadata of a model file."""

    kind: str
    config: dict[str, Any]  # how to build the network
    facts: dict[str, Any]  # value ranges, latent scaling, schedule, digest of its VAE ...
    provenance: Provenance
    inputs: dict[str, str]
    digest: str
    schema: str = MODEL_SCHEMA


class TensorEntry(msgspec.Struct, frozen=True):
    """Type and shape of one tensor in a model file."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_record(path: Path) -> tuple[ModelRecord, dict[str, TensorEntry]]:
    """The record of a model and the list of its tensors; DataError if the file is no medgen model, or cut short."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _LONGEST_HEADER:
                raise DataError(f"{path}: not a .safetensors file")
            header = json.loads(file.read(length))
            size = path.stat().st_size
    except FileNotFoundError:
        raise InputMissingError(f"{path}: no such file") from None
    except OSError as error:
        raise InputMissingError(f"{path}: cannot be opened: {error.strerror}") from None
    except ValueError:
        raise DataError(f"{path}: not a readable .safetensors file") from None
    metadata = header.pop("__metadata__", {})
    if "medgen" not in metadata:
        raise DataError(f"{path}: a .safetensors file, but not a medgen model")
    try:
        tensors = {name: msgspec.convert(entry, TensorEntry) for name, entry in header.items()}
        record = msgspec.json.decode(metadata["medgen"], type=ModelRecord)
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: its metadata is not that of a medgen model: {error}") from None
    if record.schema != MODEL_SCHEMA:
        raise DataError(f"{path}: holds schema {record.schema!r}, this version reads {MODEL_SCHEMA!r}")
    if size != 8 + length + max((entry.data_offsets[1] for entry in tensors.values()), default=0):
        raise DataError(f"{path}: truncated: the file is shorter than its header says")
    return record, tensors
