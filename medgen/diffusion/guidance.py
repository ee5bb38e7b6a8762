"""Classifier-free guidance (Ho & Salimans 2022), away from a null or a negative condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

Condition = TypeVar("Condition")
GuidanceScale = float | Callable[[Tensor], Tensor]
"""A number, or a function of t (B,) that gives the scale of each sample (B,)."""


def combine(conditional: Tensor, unconditional: Tensor, scale: float | Tensor, rescale: float = 0.0) -> Tensor:
    """Guide one output (B, ...) away from the other (B, ...); `scale` is a number or (B,).

    `rescale` in [0, 1] is phi of Lin et al. 2024, eq. 15-16: how far the standard deviation of each sample returns
    to that of the conditional output, against the over-exposure that large scales bring.
    """
    if isinstance(scale, Tensor):
        scale = scale.to(conditional).view((-1,) + (1,) * (conditional.ndim - 1))
    guided = unconditional + scale * (conditional - unconditional)
    if rescale == 0:
        return guided
    dims = tuple(range(1, guided.ndim))
    ratio = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return guided * (rescale * ratio + (1 - rescale))


def guide(
    denoise: Callable[[Tensor, Tensor, Condition], Tensor],
    condition: Condition,
    negative: Condition,
    guidance_scale: GuidanceScale,
    rescale: float = 0.0,
    *,
    join: Callable[[Condition, Condition], Condition],
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a `denoise(x, t)` for samplers, guided towards `condition` and away from `negative` (null or unwanted).

    The network `denoise(x, t, condition)` runs once a step on the doubled batch, whose condition is
    `join(condition, negative)`. A scale of 1 needs the condition alone, a scale of 0 the negative alone: then the
    batch is not doubled.
    """
    if guidance_scale == 1:
        return lambda x, t: denoise(x, t, condition)
    if guidance_scale == 0:
        return lambda x, t: denoise(x, t, negative)
    both = join(condition, negative)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        outputs = denoise(x.repeat(2, *[1] * (x.ndim - 1)), t.repeat(2), both)
        conditional, unconditional = outputs.chunk(2)
        scale = guidance_scale(t) if callable(guidance_scale) else guidance_scale
        return combine(conditional, unconditional, scale, rescale)

    return guided
