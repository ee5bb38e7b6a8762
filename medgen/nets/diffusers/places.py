"""Where the weights of a network lie in the layout of diffusers and in ours: one table, read in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from medgen.errors import DataError

KINDS = ("weight", "bias")


class Place(NamedTuple):
    """A layer under its names in both layouts."""

    ours: str
    theirs: tuple[str, ...]
    """More than one: ours stacks these layers' weights along the outputs."""
    pointwise: bool = False
    """Their linear layer is written as a 1x1 convolution."""


def to_ours(
    places: Iterable[Place], weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Their weights as a state dict of ours, in float32.

    expected: the state dict that our network would have; its tensors may be on the device "meta". Raises DataError
    naming the first weight that is missing, has no place in our network, or has another shape.
    """
    left, state = dict(weights), {}
    for place in places:
        for kind in KINDS:
            names, ours = [f"{name}.{kind}" for name in place.theirs], f"{place.ours}.{kind}"
            if ours not in expected:
                continue
            if lacking := [name for name in names if name not in left]:
                raise DataError(f"weights lack '{lacking[0]}', against config.json; get the matching pair of files")
            parts = [left.pop(name).float() for name in names]
            value = parts[0] if len(parts) == 1 else torch.cat(parts)
            if value.ndim == 4 and expected[ours].ndim == 2 and value.shape[2:] == (1, 1):
                value = value.flatten(1)
            if value.shape != expected[ours].shape:
                shapes = f"{tuple(value.shape)}, not {tuple(expected[ours].shape)}"
                raise DataError(
                    f"weight '{names[0]}' has shape {shapes} as config.json says; get the matching pair of files"
                )
            state[ours] = value
    if left:
        raise DataError(f"weights hold '{min(left)}', against config.json; get the matching pair of files")
    return state


def to_theirs(places: Iterable[Place], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours`."""
    weights = {}
    for place in places:
        for kind in KINDS:
            value = state.get(f"{place.ours}.{kind}")
            if value is None:
                continue
            if place.pointwise and kind == "weight":
                value = value[:, :, None, None]
            for name, part in zip(place.theirs, value.chunk(len(place.theirs)), strict=True):
                weights[f"{name}.{kind}"] = part.contiguous()
    return weights


def check_types(config: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """DataError that names the first of their settings that has not the type it is to have; absent ones are right."""
    for key, kind in types.items():
        try:
            if key in config:
                msgspec.convert(config[key], kind)
        except msgspec.ValidationError:
            told = f"config.json: {key} = {config[key]} is not as diffusers writes it"
            raise DataError(f"{told}; get the file again") from None


def require(config: Mapping[str, Any], supported: Mapping[str, object], what: str) -> None:
    """DataError that names the first of their settings that is not as our networks need it; absent ones are."""
    for key, value in supported.items():
        given = config.get(key, value)
        if (list(given) if isinstance(given, tuple) else given) != value:
            raise DataError(f"config.json: {key} = {given} is not supported, only {value}; use another {what}")
