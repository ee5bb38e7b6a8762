"""The precision at which a network runs: as asked for, or, for "auto" on a CPU, as a short measurement decides.

Processors with bfloat16 instructions may still be slower in it, and small networks can go either way. So the blocks of
the network at hand are timed in both precisions, as they are used: forward, and for training backward too. If no
precision is asked for, the layout of images and the kernels of upsampling and attention are chosen likewise for
inference. Inference by small networks is not measured: little time could be saved, and the faster way, and with it the
result, could change from one command to the next.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from medgen.errors import ConfigError
from medgen.models.timing import Clock, Times, in_turns
from medgen.nets.attention import Context, SelfAttention
from medgen.nets.compute import autocast, channels_last
from medgen.nets.kernels import DEFAULT, Kernels, use_kernels
from medgen.nets.options import Precision, UNetConfig, VAEConfig
from medgen.nets.units import Input, block_samples, is_small, upsampling_samples

LEAD = 1.25
"""How many times as fast bfloat16 must be to be chosen: less may be noise, or is not worth its rounding."""
KERNEL_LEAD = 1.15
"""The same for a kernel other than the default."""

Network = UNetConfig | VAEConfig


class Choice(NamedTuple):
    """A precision, and why it was chosen."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> Literal["float32", "bfloat16", "float16"]:
        """float32, bfloat16 or float16."""
        name: Literal["float32", "bfloat16", "float16"] = str(self.dtype).removeprefix("torch.")  # type: ignore[assignment]
        return name

    def __str__(self) -> str:
        return f"{self.name}, {self.reason}"


def choose(precision: Precision, network: Network, device: torch.device, *, training: bool = False) -> Choice:
    """The precision for a network of this shape; "auto" on a CPU is measured once per process."""
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("precision = float16: a CPU is slower in it than in float32; take auto, float32 or bfloat16")
    if precision != "auto":
        return Choice(getattr(torch, precision), "as asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice(torch.bfloat16, "which the GPU has")
        return Choice(torch.float32, "since the GPU has no bfloat16")
    if not computes_bfloat16():
        return Choice(torch.float32, "since this processor has no instructions for bfloat16")
    if not training and is_small(network):
        return Choice(torch.float32, "since bfloat16 would save little time in so small a network")
    lead = measured(network, training).lead
    dtype = torch.bfloat16 if lead >= LEAD else torch.float32
    return Choice(dtype, f"since bfloat16 is {lead:.2f} times as fast as float32 here, and {LEAD:g} is a clear lead")


def computes_bfloat16() -> bool:
    """Whether torch's CPU kernels compute in bfloat16; without AVX-512 they only imitate it, many times slower."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without these kernels: let the measurement tell
        return True


def measure(network: Network, training: bool, clock: Clock = time.process_time) -> Times:
    """Time blocks of a network in float32 and in bfloat16."""
    both = (
        (_pass(*part, torch.float32, training, DEFAULT), _pass(*part, torch.bfloat16, training, DEFAULT))
        for part in _built(block_samples(network))
    )
    return in_turns(both, clock)


@functools.cache
def measured(network: Network, training: bool) -> Times:
    """The result of `measure` for networks of this shape, measured once per process."""
    return measure(network, training)


def choose_kernels(network: Network, dtype: torch.dtype, clock: Clock = time.process_time) -> Kernels:
    """The kernels with which inference in `dtype` is fastest; the choices are made one after the other."""
    kernels = DEFAULT
    for name in Kernels._fields:
        other = kernels._replace(**{name: not getattr(kernels, name)})
        both = (
            (_pass(*part, dtype, False, kernels), _pass(*part, dtype, False, other))
            for part in _concerned(name, network, dtype)
        )
        if in_turns(both, clock).lead >= KERNEL_LEAD:
            kernels = other
    return kernels


@functools.cache
def measured_kernels(network: Network, dtype: torch.dtype) -> Kernels:
    """The result of `choose_kernels` for networks of this shape, measured once per process; the default if small."""
    return DEFAULT if is_small(network) else choose_kernels(network, dtype)


Parts = Iterator[tuple[nn.Module, tuple[Input, ...]]]


def _built(parts: Parts) -> Parts:
    """The parts, each built when it is asked for; torch's random numbers stay as they are."""
    while True:
        with torch.random.fork_rng(devices=[]):
            part = next(parts, None)
        if part is None:
            return
        yield part


def _concerned(name: str, network: Network, dtype: torch.dtype) -> Parts:
    """The parts of the network that the kernel choice called `name` affects."""
    if name == "fused_upsampling":
        yield from _built(upsampling_samples(network))
    elif name == "channels_last" and network.dims == 2:
        yield from _built(block_samples(network))
    elif name == "attention_formula" and dtype == torch.bfloat16:
        for part, inputs in _built(block_samples(network)):
            if any(isinstance(module, SelfAttention) for module in part.modules()):
                yield part, inputs


def _pass(
    part: nn.Module, inputs: tuple[Input, ...], dtype: torch.dtype, training: bool, kernels: Kernels
) -> Callable[[], object]:
    """A pass through the part as in training (mixed precision, forward and backward) or as in inference."""
    part = copy.deepcopy(part)
    values = [_changed(value, lambda tensor: tensor.to(dtype)) for value in inputs]
    if training:

        def there_and_back() -> None:
            with autocast(torch.device("cpu"), dtype):
                output = part(*(_changed(value, lambda tensor: tensor.detach().requires_grad_()) for value in values))
            output.sum().backward()

        return there_and_back
    part.to(dtype).eval().requires_grad_(False)
    use_kernels(part, kernels)
    if kernels.channels_last:  # as the parts before it hand it on
        values = [_changed(value, channels_last) for value in values]
    return torch.inference_mode()(lambda: part(*values))


def _changed(value: Input, change: Callable[[Tensor], Tensor]) -> Input:
    if isinstance(value, Context):
        return value.each(change)
    return value if value is None else change(value)
