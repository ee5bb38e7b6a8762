"""Guidance: classifier-free (Ho & Salimans 2022), away from a null or a negative condition, or from a weaker network.

Its scale may change with the time: it is a number, or a function of t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from medgen.diffusion.options import PUBLISHED_INTERVAL, GuidanceShape
from medgen.diffusion.schedules import Schedule

Condition = TypeVar("Condition")
Denoise = Callable[[Tensor, Tensor], Tensor]
"""x_t (B, ...) and t (B,) -> the network's output (B, ...)."""
GuidanceScale = float | Callable[[Tensor], Tensor]
"""A number, or a function of t (B,) that gives the scale of each sample (B,)."""


@dataclass(frozen=True)
class Sides:
    """The two outputs that guidance takes apart: what it leads towards, and what it leads away from."""

    towards: Denoise
    away: Denoise
    both: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Both outputs, in this order."""


def of_one_network(
    denoise: Callable[[Tensor, Tensor, Condition], Tensor],
    condition: Condition,
    negative: Condition,
    join: Callable[[Condition, Condition], Condition],
) -> Sides:
    """Sides by one network under two conditions, the second of them null or unwanted (Ho & Salimans 2022).

    For both, the network runs once on the doubled batch, whose condition is `join(condition, negative)`.
    """
    joined = join(condition, negative)

    def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        conditional, unconditional = denoise(x.repeat(2, *[1] * (x.ndim - 1)), t.repeat(2), joined).chunk(2)
        return conditional, unconditional

    return Sides(lambda x, t: denoise(x, t, condition), lambda x, t: denoise(x, t, negative), both)


def of_two_networks(network: Denoise, weaker: Denoise) -> Sides:
    """Sides by two networks under one condition, away from the weaker's errors: autoguidance (Karras et al. 2024)."""
    return Sides(network, weaker, lambda x, t: (network(x, t), weaker(x, t)))


def scale_over_time(scale: float, shape: GuidanceShape, schedule: Schedule) -> GuidanceScale:
    """`scale`, or a function of t that takes this shape between pure noise (t = T - 1) and the data (t = 0).

    `linear` and `cosine` rise from 1 to 2 scale - 1, with mean `scale` over t (Wang et al. 2024, table 1). A pair
    (low, high) guides only where the share of noise, sigma / (alpha + sigma), is in (low, high], and `interval` where
    it is in the published one (Kynkaanniemi et al. 2024, eq. 3); elsewhere the scale is exactly 1, which costs one
    call.
    """
    if shape == "constant" or scale == 1:
        return scale
    if shape in ("linear", "cosine"):

        def rising(t: Tensor) -> Tensor:
            noise = t / (schedule.steps - 1)
            share = 1 - noise if shape == "linear" else (1 + torch.cos(math.pi * noise)) / 2
            return 1 + 2 * (scale - 1) * share

        return rising
    low, high = shape if isinstance(shape, tuple) else PUBLISHED_INTERVAL

    def inside(t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t)
        level = sigma / (alpha + sigma)
        return torch.where((low < level) & (level <= high), scale, 1.0)

    return inside


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


def guide(sides: Sides, guidance_scale: GuidanceScale, rescale: float = 0.0) -> Denoise:
    """Make a `denoise(x, t)` for samplers, guided towards one side and away from the other.

    Where the scale of all samples is 1, or 0, only the one side that then counts is computed.
    """

    def guided(x: Tensor, t: Tensor) -> Tensor:
        scale = guidance_scale(t) if callable(guidance_scale) else guidance_scale
        if _all(scale, 1):
            return sides.towards(x, t)
        if _all(scale, 0):
            return sides.away(x, t)
        return combine(*sides.both(x, t), scale, rescale)

    return guided


def _all(scale: float | Tensor, value: float) -> bool:
    return bool((scale == value).all()) if isinstance(scale, Tensor) else scale == value
