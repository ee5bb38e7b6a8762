"""The patch discriminator: receptive field, independence within a batch, and that it can tell images apart."""

from __future__ import annotations

import pytest
import torch

from medgen.errors import DataError
from medgen.nets.discriminator import PatchDiscriminator
from medgen.nets.options import DiscriminatorConfig


def build(**options: int) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(DiscriminatorConfig(**options))


def test_a_patch_is_70_pixels_wide():
    network = build(width=8)
    network.steps = torch.nn.Sequential(*(step for step in network.steps if not isinstance(step, torch.nn.GroupNorm)))
    x = torch.randn(1, 1, 128, 128, requires_grad=True)
    logits = network(x)
    assert logits.shape == (1, 1, 14, 14)
    logits[0, 0, 7, 7].backward()
    touched = x.grad[0, 0].any(dim=0).nonzero()
    assert touched.max() - touched.min() + 1 == 70


def test_judgement_does_not_depend_on_the_rest_of_the_batch():
    network = build(width=8)
    x = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]), atol=1e-5, rtol=1e-5)
    assert not list(network.buffers())


def test_learns_to_tell_sharp_from_smooth():
    network = build(width=16, layers=2)
    sharp = torch.randn(8, 1, 32, 32)
    smooth = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = (1 - network(sharp)).relu().mean() + (1 + network(smooth)).relu().mean()
        loss.backward()
        optimizer.step()
    fresh = torch.randn(8, 1, 32, 32)
    assert network(fresh).mean() > network(torch.nn.functional.avg_pool2d(fresh, 3, stride=1, padding=1)).mean() + 0.5


def test_smallest_image():
    assert build(width=8)(torch.zeros(1, 1, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(DataError, match="at least 24"):
        build(width=8)(torch.zeros(1, 1, 23, 64))
    with pytest.raises(DataError, match="C = 3"):
        build(in_channels=3)(torch.zeros(1, 1, 64, 64))
