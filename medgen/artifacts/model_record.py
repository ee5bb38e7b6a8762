"""What a model file says about itself, read from its first bytes without loading torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.tensors.header import TensorHeader, read_header
from medgen.errors import DataError

MODEL_SCHEMA = "medgen.model/1"


class ModelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metadata of a model file."""

    kind: str
    config: dict[str, Any]  # how to build the network
    facts: dict[str, Any]  # value ranges, latent scaling, schedule, digest of its VAE ...
    provenance: Provenance
    inputs: dict[str, str]
    digest: str
    schema: str = MODEL_SCHEMA


def read_record(path: Path) -> tuple[ModelRecord, TensorHeader]:
    """The record of a model, and its header; DataError if the file is not a complete medgen model."""
    header = read_header(path)
    schema = header.facts.get("schema")
    if schema != MODEL_SCHEMA:
        raise DataError(f"{path}: holds {schema!r}, not a model that this version reads ({MODEL_SCHEMA!r})")
    try:
        return msgspec.convert(header.facts, ModelRecord), header
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: its metadata is not that of a medgen model: {error}") from None
