"""Tensors in a .safetensors file, each with a checksum that is verified when it is read: models and resume states."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medgen.artifacts.schema import as_bytes
from medgen.artifacts.tensors.header import TensorHeader, sealed
from medgen.artifacts.tensors.layout import TensorEntry, head
from medgen.errors import DataError

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, int]:
    """Write `tensors` and `facts` (JSON values) to `path`; returns checksums. Equal arguments give equal bytes."""
    # Not safetensors' own writer, because that one replaces the file at `path`, and hides why it failed.
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    order = sorted(plain, key=lambda name: (-plain[name].element_size(), name))  # each aligned to its type
    entries = [TensorEntry(name, _NAMES[plain[name].dtype], plain[name].shape, plain[name].nbytes) for name in order]
    checksums = {name: checksum(name, plain[name]) for name in order}
    with path.open("wb") as file:
        file.write(head(sealed(facts, checksums), entries))
        for name in order:
            file.write(tensor_bytes(plain[name]))
    return checksums


def read_tensors(path: Path, header: TensorHeader, names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors called `names` of the file that `header` was read from; DataError names one that is damaged."""
    try:
        with safe_open(named_in_utf8(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise DataError(f"{path}: damaged: {error}") from None
    if header.checksums is not None:
        for name, tensor in tensors.items():
            if checksum(name, tensor) != header.checksums[name]:
                raise DataError(f"{path}: damaged: tensor '{name}' does not match its checksum; copy the file again")
    return tensors


def named_in_utf8(path: Path) -> Path:
    """The path; DataError if safetensors cannot open it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"{path}: its name is not UTF-8, as safetensors wants it; rename the file") from None
    return path


def in_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors of a file, which safetensors only maps: a file that is overwritten would change them in use."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or an infinite value."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            wide = tensor if tensor.dtype in _NAMES else tensor.float()  # 8-bit types cannot be checked otherwise
            if not torch.stack(wide.aminmax()).isfinite().all():
                return name
    return None


def checksum(name: str, tensor: Tensor) -> int:
    """CRC-32 of a tensor with its name, type and shape."""
    return zlib.crc32(tensor_bytes(tensor), zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()))


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The values of a contiguous tensor on the CPU, without a copy."""
    return as_bytes(tensor.reshape(-1).view(torch.uint8).numpy())
