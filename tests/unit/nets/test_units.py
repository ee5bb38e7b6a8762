"""Units that are computed again in the backward pass give the same gradients, and keep less."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from medgen.nets.blocks import ResidualBlock
from medgen.nets.condition import Condition
from medgen.nets.options import UNetConfig, VAEConfig
from medgen.nets.unet import UNet
from medgen.nets.unet_trunk import Unit
from medgen.nets.units import recompute_units, units
from medgen.nets.vae import VAE


def unet(dims: int) -> UNet:
    return UNet(
        UNetConfig(
            dims=dims, in_channels=2, out_channels=2, widths=(8, 16), blocks=1, attention=("linear", "full"),
            head_width=8, time_width=16, groups=4, vector_size=2, vector_hidden=8, context_width=4, gated_skips=True,
            dropout=0.2,
        )
    )  # fmt: skip


def vae(dims: int) -> VAE:
    return VAE(VAEConfig(dims=dims, latent_channels=2, widths=(8, 16), blocks=2, groups=4, mid_attention=True))


def call(network: nn.Module, dims: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    shape = (16, 16) if dims == 2 else (4, 16, 16)
    x = torch.randn(2, network.config.in_channels, *shape, generator=draw)  # type: ignore[union-attr]
    if isinstance(network, VAE):
        reconstruction, posterior = network(x, draw)
        return reconstruction.square().mean() + posterior.kl().mean()
    vector, context = torch.rand(2, 2, generator=draw), torch.randn(2, 3, 4, generator=draw)
    keep = torch.tensor([True, False])
    condition = Condition(vector=vector, tokens=context, present=keep)
    return network(x, torch.tensor([3.0, 700.0]), condition).square().mean()


def gradients(network: nn.Module, dims: int) -> tuple[dict[str, Tensor], int]:
    """Of all weights; and how many bytes were kept for them."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += 0 if tensor.is_leaf and tensor.requires_grad else tensor.nbytes
        return tensor

    torch.manual_seed(2)  # for dropout
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = call(network, dims)
    loss.backward()
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}, kept


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("build", [unet, vae])
def test_gradients_are_the_same_and_less_is_kept(build: Callable[[int], nn.Module], dims: int) -> None:
    torch.manual_seed(0)
    network = build(dims)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.1)  # or else what begins at zero has no gradient
    expected, kept = gradients(network, dims)
    network.zero_grad()
    recompute_units(network)
    found, kept_now = gradients(network, dims)
    assert found.keys() == expected.keys()
    assert all(torch.equal(gradient, expected[name]) for name, gradient in found.items())
    assert kept_now < 0.5 * kept


@pytest.mark.parametrize("network", [unet(2), vae(3)], ids=["unet", "vae"])
def test_units_are_the_outermost_and_hold_nearly_all_weights(network: nn.Module) -> None:
    found = list(units(network))
    inner = [module for unit in found for module in unit.modules() if module is not unit]
    assert not {id(unit) for unit in found} & {id(module) for module in inner}
    blocks = [module for module in network.modules() if isinstance(module, Unit | ResidualBlock)]
    assert {id(block) for block in blocks} <= {id(unit) for unit in found} | {id(module) for module in inner}


def test_without_gradients_nothing_changes() -> None:
    network = vae(2)
    with torch.inference_mode():
        expected = call(network, 2)
        recompute_units(network)
        assert torch.equal(call(network, 2), expected)
