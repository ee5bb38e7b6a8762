"""Where networks run and at which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from medgen.errors import UnavailableError, UsageError

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_device(name: str) -> torch.device:
    """Find the device called auto, cpu, cuda or cuda:i; auto is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, separator, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (separator and not number.isdigit()) or (kind == "cpu" and separator):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UnavailableError(f"--device {name}: {torch.cuda.device_count()} CUDA devices found; use --device cpu")
    return torch.device(name)


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Choose the type of matrix products: auto takes bfloat16 where the hardware has it; emulated, it is slower."""
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if supported() else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Mixed precision in `dtype`, or nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
