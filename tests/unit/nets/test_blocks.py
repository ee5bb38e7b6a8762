"""Blocks: what is computed in another order is still the same function."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medgen.nets.blocks import Upsample


@pytest.mark.parametrize(("dims", "depth", "scale"), [(2, False, (2, 2)), (3, False, (1, 2, 2)), (3, True, (2, 2, 2))])
def test_upsampling_repeats_each_pixel_and_then_convolves(dims, depth, scale):
    torch.manual_seed(0)
    layer = Upsample(dims, 6, depth=depth).double()
    x = torch.randn(2, 6, 3, 4, 5, dtype=torch.double)[..., : 5 if dims == 3 else 1].squeeze(-1)
    x.requires_grad_()
    expected = layer.conv(F.interpolate(x, scale_factor=tuple(map(float, scale)), mode="nearest"))
    assert layer(x).shape[2:] == tuple(side * factor for side, factor in zip(x.shape[2:], scale, strict=True))
    torch.testing.assert_close(layer(x), expected)
    layer.fused = False
    torch.testing.assert_close(layer(x), expected)
    layer.fused = True
    wanted = [x, layer.conv.weight, layer.conv.bias]
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((layer(x) * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_frozen_kernel_gives_the_same_bits_and_is_not_stored():
    layer = Upsample(2, 6)
    x = torch.randn(2, 6, 5, 4)
    before, names = layer(x), set(layer.state_dict())
    layer.freeze()
    assert torch.equal(layer(x), before)
    assert layer(x.requires_grad_()).sum().grad_fn is not None
    assert set(layer.state_dict()) == names
    torch.nn.init.zeros_(layer.conv.weight)  # weights that change need a kernel made anew
    assert torch.equal(layer(x), before)
    layer.freeze()
    assert not torch.equal(layer(x), before)
