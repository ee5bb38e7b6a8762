"""What a .safetensors file of medgen says about itself, read from its first bytes without loading torch.

The facts hold a checksum of each tensor and one of the facts themselves. Files of medgen 0.1 have none.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from medgen.artifacts.tensors.layout import KEY
from medgen.errors import DataError, InputMissingError

_LONGEST_HEADER = 100 << 20


class StoredTensor(msgspec.Struct, frozen=True):
    """Type and shape of one tensor, and where its bytes lie after the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
"""How sets in files begin, which hold no tensors."""
A_SET = "is a set, and a model is expected"


@dataclass(frozen=True)
class TensorHeader:
    """The facts of a file, its tensors, and their CRC-32 by name (None: the file has no checksums)."""

    facts: dict[str, Any]
    tensors: dict[str, StoredTensor]
    checksums: dict[str, int] | None


def sealed(facts: Mapping[str, Any], checksums: Mapping[str, int]) -> str:
    """`facts` as JSON, with the checksums of the tensors and one over both."""
    content = {**facts, "checksums": dict(checksums)}
    content["checksum"] = zlib.crc32(msgspec.json.encode(content, order="sorted"))
    return msgspec.json.encode(content, order="sorted").decode()


def read_header(path: Path) -> TensorHeader:
    """Open a file that `write_tensors` wrote; DataError if it is another file, truncated, or its header is damaged."""
    try:
        with path.open("rb") as file:
            beginning = file.read(8)
            length = int.from_bytes(beginning, "little")
            if beginning == HDF5_MAGIC:
                raise DataError(f"{path}: {A_SET}")
            if not 2 <= length <= _LONGEST_HEADER:
                raise DataError(f"{path}: not a .safetensors file")
            header = msgspec.json.decode(file.read(length), type=dict[str, Any])
            size = path.stat().st_size
    except FileNotFoundError:
        raise InputMissingError(f"{path}: no such file") from None
    except OSError as error:
        raise InputMissingError(f"{path}: cannot be opened: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}: not a readable .safetensors file") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or KEY not in metadata:
        raise DataError(f"{path}: a .safetensors file, but not one of medgen")
    try:
        tensors = msgspec.convert(header, dict[str, StoredTensor])
        facts = msgspec.json.decode(metadata[KEY], type=dict[str, Any])
        if "part" in facts:
            raise DataError(f"{path}: {A_SET}")
        checksums = _unseal(facts)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: damaged: its header cannot be read ({error})") from None
    if size != 8 + length + max((entry.data_offsets[1] for entry in tensors.values()), default=0):
        raise DataError(f"{path}: truncated: the file is shorter than its header says")
    if checksums is not None and checksums.keys() != tensors.keys():
        raise DataError(f"{path}: damaged: it does not hold the tensors that its header lists")
    return TensorHeader(facts, tensors, checksums)


def _unseal(facts: dict[str, Any]) -> dict[str, int] | None:
    """Remove what `sealed` added from `facts`; ValueError if they do not match their checksum."""
    checksum = facts.pop("checksum", None)
    if checksum is None and "checksums" not in facts:
        return None
    if checksum != zlib.crc32(msgspec.json.encode(facts, order="sorted")):
        raise ValueError("they do not match their checksum")
    return msgspec.convert(facts.pop("checksums", None), dict[str, int])
