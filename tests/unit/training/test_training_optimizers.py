"""Steps that are left out, and the scale of float16, on any device."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from medgen.training.loop import optimizers
from medgen.training.loop.optimizers import LossScale, Optimizers
from medgen.training.loop.options import LoopOptions
from medgen.training.loop.resume import pack, unpack

CPU = torch.device("cpu")


def networks() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(3, 2), nn.Linear(2, 1)]


def trained(losses: list[tuple[float, float]], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Optimizers]:
    """All weights after a step for each pair of factors of the two networks' losses; and what moved them."""
    both = networks()
    moving = Optimizers(both, LoopOptions(clip=0.5, weight_decay=0.1), CPU, dtype)
    for step, factors in enumerate(losses):
        moving.clear()
        for network, factor in zip(both, factors, strict=True):
            x = torch.linspace(-1, 1, network.in_features) + step  # type: ignore[operator]
            moving.backward(network(x).square().sum() * factor)
        moving.step(0.01)
    return [weight.detach() for network in both for weight in network.parameters()], moving


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (1.0, math.inf)])
@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_a_gradient_that_is_not_finite_moves_nothing(bad: tuple[float, float], kind: str) -> None:
    both = networks()
    moving = Optimizers(both, LoopOptions(optimizer=kind, weight_decay=0.1), CPU, torch.float32)
    for factors in ((1.0, 1.0), bad):
        before = copy.deepcopy([moving.each[0].state_dict(), moving.each[1].state_dict()])
        weights = [weight.detach().clone() for network in both for weight in network.parameters()]
        moving.clear()
        for network, factor in zip(both, factors, strict=True):
            moving.backward(network(torch.ones(network.in_features)).sum() * factor)  # type: ignore[call-overload]
        figures = moving.step(0.01)
        assert figures["left_out"] == float(factors is bad)
    assert all(
        torch.equal(old, new) for old, new in zip(weights, [w for n in both for w in n.parameters()], strict=True)
    )
    for old, optimizer in zip(before, moving.each, strict=True):
        for index, moments in optimizer.state_dict()["state"].items():
            assert all(torch.equal(old["state"][index][name], value) for name, value in moments.items())


def test_gradients_that_were_lifted_move_weights_to_the_same_bits() -> None:
    losses = [(1.0, 2.0), (0.5, 1e-3), (3.0, 1.0)]
    plain, _ = trained(losses)
    lifted, moving = trained(losses, torch.float16)
    assert all(torch.equal(one, other) for one, other in zip(plain, lifted, strict=True))
    assert moving.scale is not None
    assert moving.scale.factor == 2.0**16


def test_a_scale_that_overflows_falls_until_it_does_not() -> None:
    both = networks()
    moving = Optimizers(both[:1], LoopOptions(), CPU, torch.float16)
    assert moving.scale is not None
    moving.scale.factor = torch.tensor(2.0**127)
    left_out = []
    for _ in range(8):
        moving.clear()
        moving.backward(both[0](torch.full((3,), 4.0)).sum())
        left_out.append(float(moving.step(0.01)["left_out"]))
    assert left_out == [1, 1, 0, 0, 0, 0, 0, 0]  # float32 ends below 2^128
    assert moving.scale.factor == 2.0**125


def test_the_scale_moves_as_that_of_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "GROWTH_STEPS", 3)
    ours = LossScale(CPU)
    scale, tracker = torch.tensor(2.0**16), torch.tensor(0, dtype=torch.int32)
    draws = torch.Generator().manual_seed(0)
    for _ in range(200):
        overflown = (torch.rand((), generator=draws) < 0.2).float()
        torch._amp_update_scale_(scale, tracker, overflown, 2.0, 0.5, 3)
        ours.update(overflown)
        assert (ours.factor, ours.passed) == (scale, tracker)
    again = LossScale(CPU)
    again.load(ours.state())
    assert (again.factor, again.passed) == (scale, tracker)
    again.load({})
    assert again.factor == scale


def test_moments_come_back_in_the_layout_of_their_weights() -> None:
    """Fused optimizers walk through memory, in which weights that are channels-last lie in another order."""

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    def step(model: nn.Module, optimizers: Optimizers, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        optimizers.clear()
        for weight in model.parameters():
            weight.grad = torch.empty_like(weight).copy_(torch.randn(weight.shape, generator=generator))
        optimizers.step(1e-2)

    options, device = LoopOptions(), torch.device("cpu")
    whole, stopped, resumed = network(), network(), network()
    all_steps, first, second = (Optimizers([one], options, device, torch.float32) for one in (whole, stopped, resumed))
    step(whole, all_steps, 1)
    step(whole, all_steps, 2)
    step(stopped, first, 1)
    packed = pack(stopped, first.each[0], {})
    written = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in packed.items()}
    unpack(written, resumed, second.each[0], {})
    step(resumed, second, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
