"""Low-rank changes to the linear layers and convolutions of a frozen network (Hu et al. 2022, "LoRA").

`adapt(network, names, rank, scale)` freezes any network and gives each named layer a change that starts at zero. The
layers' weights keep their names; those of the change are below `LAYER.lora`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medgen.errors import ConfigError
from medgen.nets.blocks import Upsample, zeroed

CHILD = "lora"
"""Name of the change within its layer."""
DOWN, UP = f".{CHILD}.down.weight", f".{CHILD}.up.weight"
"""Suffixes of the names of a change's weights, in the order in which they are applied."""
LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)
"""Layers that can be adapted."""


class LowRank(nn.Module):
    """The term added to a layer's output: strength * scale * up(down(x)). `up` starts at zero, and so does the term.

    For a convolution, `down` has its kernel and stride, and `up` is 1 x 1. The weights are float32; the products have
    the precision of the training.
    """

    def __init__(self, layer: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.strength = 1.0
        if isinstance(layer, nn.Linear):
            self.down: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
            self.up: nn.Module = zeroed(nn.Linear(rank, layer.out_features, bias=False))
        elif isinstance(layer, nn.Conv2d | nn.Conv3d) and layer.groups == 1:
            kind: Any = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Conv3d
            window = layer.kernel_size, layer.stride, layer.padding, layer.dilation
            self.down = kind(layer.in_channels, rank, *window, bias=False)
            self.up = zeroed(kind(rank, layer.out_channels, 1, bias=False))
        else:
            raise ConfigError(f"a layer of type {type(layer).__name__} cannot be adapted; choose others")

    def forward(self, x: Tensor) -> Tensor:
        """The term for the layer's input x, in the shape of its output."""
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.float32)
        change: Tensor = self.up(self.down(x))
        return change * (self.strength * self.scale)


def adapt(network: nn.Module, names: Iterable[str], rank: int, scale: float) -> None:
    """Freeze a network, in place, and give its layers `names` a trainable change of this rank, times `scale`.

    The outputs stay those of the frozen network, bit for bit where no upsampling is adapted. ConfigError
    for a layer that has a change already.
    """
    network.requires_grad_(False)
    for name in names:
        layer = network.get_submodule(name)
        if hasattr(layer, CHILD):
            raise ConfigError(f"layer {name} has an adapter already; merge that first, or adapt another layer")
        layer.add_module(CHILD, LowRank(layer, rank, scale))
        layer.register_forward_hook(_add_change)
    for part in network.modules():
        if isinstance(part, Upsample) and hasattr(part.conv, CHILD):
            part.stepwise = True


def _add_change(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    change: LowRank = layer.lora  # type: ignore[assignment]
    return output + change(inputs[0]).to(output.dtype) if change.strength else output


def changes_of(network: nn.Module) -> dict[str, LowRank]:
    """The changes in a network by the names of their layers."""
    return {name.removesuffix(f".{CHILD}"): part for name, part in network.named_modules() if isinstance(part, LowRank)}


@contextlib.contextmanager
def strength(network: nn.Module, value: float) -> Iterator[None]:
    """Multiply all changes in a network by `value` inside the block; 0 is the network without its adapter, exactly."""
    changes = changes_of(network).values()
    before = [change.strength for change in changes]
    for change in changes:
        change.strength = value
    try:
        yield
    finally:
        for change, was in zip(changes, before, strict=True):
            change.strength = was


def of_changes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a network's state dict that belong to its changes."""
    return {name: tensor for name, tensor in state.items() if name.endswith((DOWN, UP))}


class Change(NamedTuple):
    """The change of one layer, by its weights."""

    down: Tensor
    up: Tensor
    scale: float

    def weight(self) -> Tensor:
        """The float32 change of the layer's weight, in its shape: scale * up @ down."""
        return self.scale * (self.up.float().flatten(1) @ self.down.float().flatten(1)).view(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the layer's weight."""
        return (self.up.shape[0], *self.down.shape[1:])


def merged(state: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Tensor]:
    """A network's state dict with its changes merged into the layers' weights; `scales` are by layer."""
    weights = {name: tensor for name, tensor in state.items() if not name.endswith((DOWN, UP))}
    for name, scale in scales.items():
        change = Change(state[name + DOWN], state[name + UP], scale)
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + change.weight()
    return weights
