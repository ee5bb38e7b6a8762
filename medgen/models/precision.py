"""At which precision a network runs: as asked for, or, where "auto" is on a CPU, as a short measurement decides.

Processors that have instructions for bfloat16 may still be slower in it, and small networks go either way. So one block
of each level of the network at hand is timed in both, in turns, as it is used: forward, and for training backward too.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from medgen.nets.compute import Precision, autocast
from medgen.nets.stages import stages
from medgen.nets.unet_config import UNetConfig
from medgen.nets.vae import VAEConfig

LEAD = 1.25
"""How many times as fast bfloat16 must be to be taken: less is noise, or not worth its rounding."""
ROUNDS = 3
"""How often each block is timed; the shortest time counts, since others on the machine can only lengthen it."""
HOPELESS = 3.0
"""How many times as slow bfloat16 is where it needs no second look."""

Clock = Callable[[], float]


class Times(NamedTuple):
    """Processor seconds of one pass through a block of each level."""

    float32: float
    bfloat16: float


class Choice(NamedTuple):
    """A precision, and why."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> Literal["float32", "bfloat16"]:
        """float32 or bfloat16."""
        return "bfloat16" if self.dtype == torch.bfloat16 else "float32"

    def __str__(self) -> str:
        return f"{self.name}, {self.reason}"


def choose(
    precision: Precision, network: UNetConfig | VAEConfig, device: torch.device, *, training: bool = False
) -> Choice:
    """The precision for a network of this shape; "auto" on a CPU is measured once a process."""
    if precision != "auto":
        return Choice(getattr(torch, precision), "as asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice(torch.bfloat16, "which the GPU has")
        return Choice(torch.float32, "since the GPU has no bfloat16")
    return faster(measured(network, training))


def faster(times: Times) -> Choice:
    """The faster precision; float32 unless bfloat16 leads clearly."""
    ratio = times.float32 / max(times.bfloat16, 1e-9)
    dtype = torch.bfloat16 if ratio >= LEAD else torch.float32
    return Choice(dtype, f"since bfloat16 is {ratio:.2f} times as fast as float32 here, and {LEAD:g} is a clear lead")


def measure(network: UNetConfig | VAEConfig, training: bool, clock: Clock = time.process_time) -> Times:
    """Time a block of each level in float32 and in bfloat16, in turns.

    The clock counts what this process computes, and not how long it waits for a processor that others use too.
    """
    with torch.random.fork_rng(devices=[]):
        blocks = list(stages(network))
    passes = [[_pass(*block, dtype, training) for block in blocks] for dtype in (torch.float32, torch.bfloat16)]
    best = [[math.inf] * len(blocks) for _ in passes]
    for place, both in enumerate(zip(*passes, strict=True)):
        for run in both:
            run()  # makes plans and finds memory
        for number in range(ROUNDS):
            for times, run in zip(best, both, strict=True):
                began = clock()
                run()
                times[place] = min(times[place], clock() - began)
            if number and best[1][place] > HOPELESS * best[0][place]:
                break
    return Times(*map(sum, best))


@functools.cache
def measured(network: UNetConfig | VAEConfig, training: bool) -> Times:
    """What `measure` finds for networks of this shape, once a process."""
    return measure(network, training)


def _pass(
    block: nn.Module, inputs: tuple[Tensor | None, ...], dtype: torch.dtype, training: bool
) -> Callable[[], object]:
    """A pass through the block as trainings make it, in mixed precision and back, or as inference does."""
    block = copy.deepcopy(block)
    values = [value if value is None else value.to(dtype) for value in inputs]
    if training:

        def there_and_back() -> None:
            with autocast(torch.device("cpu"), dtype):
                output = block(*(value if value is None else value.detach().requires_grad_() for value in values))
            output.sum().backward()

        return there_and_back
    block.to(dtype).eval().requires_grad_(False)
    if any(weight.ndim == 4 for weight in block.parameters()):
        block.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return torch.inference_mode()(lambda: block(*values))
