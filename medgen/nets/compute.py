"""The device on which networks run, and their precision."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgen.errors import UnavailableError, UsageError


def resolve_device(name: str) -> torch.device:
    """Find the device called auto, cpu, cuda or cuda:i; auto is CUDA if it is available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, separator, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (separator and not number.isdigit()) or (kind == "cpu" and separator):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UnavailableError(f"--device {name}: {torch.cuda.device_count()} CUDA devices found; use --device cpu")
    return torch.device(name)


def machine(device: torch.device) -> str:
    """The hardware, as far as the last bits of a result depend on it: the GPU, or processor, kernels and threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    kernels = torch.backends.cpu.get_cpu_capability()
    return f"{processor()} ({kernels}, {threads} thread{'s' * (threads > 1)})"


def processor() -> str:
    """Model name of the processor, if the system provides it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Mixed precision in `dtype`, or nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def channels_last(x: Tensor) -> Tensor:
    """Lay out images (B, C, H, W) or volumes (B, C, D, H, W) with the channels of a pixel side by side in memory."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=layouts[x.ndim]) if x.ndim in layouts else x


def lay_channels_last(network: nn.Module) -> None:
    """Lay out the kernels of convolutions like that; their outputs are then laid out like that for any input."""
    for parameter in network.parameters():
        parameter.data = channels_last(parameter.data)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread, and then in as many as before.

    Small work gains nothing from more, and loses much if these wait for busy processors.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute in float32 inside the block or function, for figures that others must be able to reproduce.

    This turns off mixed precision, and also the TF32 or bfloat16 that torch may use in place of float32, and by default
    does use in convolutions on CUDA. A backward pass takes place later and is not affected.
    """
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in _product_settings()]
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        try:
            for owner, name, exact in _product_settings():
                setattr(owner, name, exact)
            yield
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)


def _product_settings() -> list[tuple[Any, str, object]]:
    """Torch's settings for how to multiply float32, each with the value that means float32."""
    backends: Any = torch.backends  # whose settings are not typed
    if not hasattr(backends.cudnn, "conv"):  # before torch 2.9
        return [(owner, "allow_tf32", False) for owner in (backends.cuda.matmul, backends.cudnn)]
    owners = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]
    return [(owner, "fp32_precision", "ieee") for owner in owners]
