"""Weights in 4 bits: how far they are off, what they take, and that gradients pass through them unchanged."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from medgen.nets.blocks import Upsample
from medgen.nets.lora.four_bit import BLOCK, LEVELS, FourBit, packed, quantize, restored, rounded, size_of
from medgen.nets.lora.low_rank import adapt, changes_of
from medgen.nets.lora.parts import layers_in, layers_of
from medgen.nets.options import UNetConfig
from medgen.nets.unet import UNet

CONFIG = UNetConfig(
    in_channels=2, out_channels=2, widths=(32, 64), blocks=1, attention=("none", "full"), head_width=32, time_width=64,
    groups=8,
)  # fmt: skip


def test_levels_come_back_exactly_and_the_first_of_a_pair_is_the_high_half() -> None:
    weight = torch.tensor(LEVELS).repeat(8).view(2, 64) * torch.tensor([[3.0], [0.5]])
    codes, scales = packed(weight)
    assert scales.tolist() == [3.0, 0.5]
    assert codes[:3].tolist() == [0x01, 0x23, 0x45]
    assert torch.equal(restored(codes, scales, weight.shape), weight)


@pytest.mark.parametrize("shape", [(48, 64), (6, 5, 3, 3), (10, 7)])
def test_no_weight_is_off_by_more_than_half_the_widest_gap_of_its_block(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    flat = weight.flatten()
    largest = torch.stack([block.abs().max() for block in flat.split(BLOCK)]).repeat_interleave(BLOCK)[: len(flat)]
    gap = max(high - low for low, high in itertools.pairwise(LEVELS)) / 2
    off = (rounded(weight).flatten() - flat).abs()
    assert (off <= gap * largest * (1 + 1e-6)).all()
    assert 0.05 < float(off.norm() / flat.norm()) < 0.12  # of normal weights, about 0.09
    assert torch.equal(rounded(rounded(weight)), rounded(weight))


def test_each_weight_goes_to_the_nearest_level() -> None:
    shares = torch.linspace(-1, 1, 1000)
    nearest = torch.tensor(LEVELS)[(shares[:, None] - torch.tensor(LEVELS)).abs().argmin(1)]
    with_ends = torch.cat([torch.ones(len(shares), 1), shares[:, None].expand(-1, 63)], dim=1)  # scale 1 in each block
    assert torch.equal(rounded(with_ends)[:, 1], nearest)


def test_a_block_of_zeros_stays_zero() -> None:
    assert torch.equal(rounded(torch.zeros(2, 64)), torch.zeros(2, 64))


@pytest.mark.parametrize(
    ("layer", "sides"),
    [
        (nn.Linear(64, 96), ()),
        (nn.Conv2d(32, 48, 3, stride=2, padding=1), (9, 8)),
        (nn.Conv2d(64, 64, 1), (4, 4)),
        (nn.Conv3d(16, 32, 3, stride=(1, 2, 2), padding=1), (3, 8, 8)),
    ],
)
def test_products_and_gradients_are_those_of_the_rounded_weight(layer: nn.Module, sides: tuple[int, ...]) -> None:
    plain, network = copy.deepcopy(layer), nn.Sequential(layer)
    plain.weight.data = rounded(plain.weight)  # type: ignore[union-attr, arg-type]
    assert quantize(network) == ["0"]
    x = torch.randn(2, plain.weight.shape[1], *sides)  # type: ignore[union-attr, index]
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [plain(inputs[0]), network(inputs[1])]
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-4)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, atol=1e-3, rtol=1e-3)
    assert isinstance(layer, FourBit)
    assert {*network.state_dict()} == {"0.bias"}


def trainable() -> UNet:
    torch.manual_seed(0)
    network = UNet(CONFIG)
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.05)
    return network


def test_the_large_layers_of_a_unet_take_a_seventh_and_its_ends_stay_exact() -> None:
    network = trainable()
    before, layers = size_of(network), layers_in(network)
    large = sum(network.get_submodule(name).weight.nbytes for name in layers)  # type: ignore[union-attr, operator, misc]
    names = quantize(network)
    assert not any(name.startswith(("down.input", "outputs.", "time.")) for name in names)
    assert layers_in(network) == layers
    assert any(isinstance(part, Upsample) and isinstance(part.conv, FourBit) for part in network.modules())
    held = sum(network.get_submodule(name).codes.nbytes + network.get_submodule(name).scales.nbytes for name in names)  # type: ignore[union-attr, operator, misc]
    assert size_of(network) == before - held * 64 // 9 + held  # 4 bits and a float32 in 64 weights, of 32 bits
    assert size_of(network) < 0.25 * before
    assert held < large / 7


def test_an_adapter_learns_on_it_and_nothing_else_changes() -> None:
    network = trainable()
    adapt(network, layers_of(network, ["all"]), rank=2, scale=1.0)
    quantize(network)
    x, time = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((4,), 300.0)
    with torch.no_grad():
        wanted = network(x, time).roll(1, 0)
    frozen = {name: part.clone() for name, part in network.named_buffers()}
    optimizer = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        loss = (network(x, time) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(change.down.weight.grad.any() for change in changes_of(network).values())  # type: ignore[union-attr, operator]
    assert all(torch.equal(part, frozen[name]) for name, part in network.named_buffers())


def test_the_restored_weight_is_not_kept_for_the_backward_pass() -> None:
    layer = nn.Linear(64, 128)
    network = nn.Sequential(layer)
    quantize(network)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        network(torch.randn(3, 64, requires_grad=True))
    assert sum(tensor.numel() for tensor in kept) == 0
