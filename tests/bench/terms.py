"""On which terms networks are compared: all at one precision, layout and optimizer, or each at its own defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from medgen.models.precision import choose
from medgen.nets.options import UNetConfig, VAEConfig

from .table import instruction_sets


@dataclass(frozen=True)
class Setting:
    """How one contestant runs."""

    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    compiled: bool = False
    fused: bool = False
    """The fused kernels that are an option: of the optimizer, and of MONAI's attention on CUDA."""


@dataclass(frozen=True)
class Terms:
    """What is the same for all, or not."""

    name: str
    ours: Setting
    theirs: Setting


def terms(device: torch.device, network: UNetConfig | VAEConfig, *, training: bool) -> list[Terms]:
    """Equal terms at each precision (on CUDA in both layouts, and compiled), then everyone's defaults.

    medgen's defaults are the precision that it chooses for the network on this machine, the fused optimizer, and
    channels last for inference only. Those of the others are what their tutorials do without further options: float32
    in the plain layout.
    """
    layout = not training
    plain = Setting(channels_last=layout, fused=True)
    chosen = choose("auto", network, device, training=training)
    ours = replace(plain, dtype=chosen.dtype)
    listed = [_equal("float32, all", plain)]
    if has_bfloat16(device):
        listed.append(_equal("bfloat16, all", replace(plain, dtype=torch.bfloat16)))
    if device.type == "cuda":
        turned = "plain layout" if layout else "channels last"
        listed.append(_equal(f"{chosen.name}, {turned}, all", replace(ours, channels_last=not layout)))
        compiled = replace(ours, channels_last=True, compiled=True)
        listed.append(_equal(f"{chosen.name}, channels last, compiled, all", compiled))
    return [*listed, Terms("defaults, each", ours, Setting())]


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware computes in bfloat16, be it faster or not."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" in instruction_sets()


def _equal(name: str, setting: Setting) -> Terms:
    return Terms(name, setting, setting)
