"""On which terms networks are compared: all at one precision, layout and optimizer, or each at its own defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from medgen.nets.compute import resolve_precision


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


def terms(device: torch.device, *, training: bool) -> list[Terms]:
    """Equal terms at each precision (on CUDA in both layouts, and compiled), then everyone's defaults.

    medgen's defaults are the best precision of the device, the fused optimizer, and channels last for inference only.
    Those of the others are what their tutorials do without further options: float32 in the plain layout.
    """
    best = resolve_precision("auto", device)
    layout = not training
    name = str(best).removeprefix("torch.")
    plain = Setting(channels_last=layout, fused=True)
    ours = replace(plain, dtype=best)
    listed = [_equal("float32, all", plain)]
    if best != torch.float32:
        listed.append(_equal(f"{name}, all", ours))
    if device.type == "cuda":
        turned = "plain layout" if layout else "channels last"
        listed.append(_equal(f"{name}, {turned}, all", replace(ours, channels_last=not layout)))
        compiled = replace(ours, channels_last=True, compiled=True)
        listed.append(_equal(f"{name}, channels last, compiled, all", compiled))
    return [*listed, Terms("defaults, each", ours, Setting())]


def _equal(name: str, setting: Setting) -> Terms:
    return Terms(name, setting, setting)
