"""Low-rank changes: nothing at first, nothing when off, and what is merged is what was trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from medgen.errors import ConfigError
from medgen.nets.blocks import Upsample
from medgen.nets.condition import Condition
from medgen.nets.lora.low_rank import DOWN, UP, Change, LowRank, adapt, changes_of, of_changes, strength
from medgen.nets.lora.parts import layers_of
from medgen.nets.options import LoraConfig, UNetConfig
from medgen.nets.unet import UNet

CONFIG = UNetConfig(
    in_channels=2, out_channels=2, widths=(8, 16), blocks=1, attention=("none", "full"), head_width=8, time_width=16,
    groups=4, context_width=6,
)  # fmt: skip


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    network = UNet(CONFIG)
    for weight in network.parameters():  # a new network answers zero to everything
        if not weight.any():
            nn.init.normal_(weight, std=0.1)
    return network


def answer(network: UNet) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    x, tokens = torch.randn(3, 2, 8, 8, generator=draw), torch.randn(3, 5, 6, generator=draw)
    output: Tensor = network(x, torch.tensor([10.0, 500.0, 990.0]), Condition(tokens=tokens))
    return output


def train(network: nn.Module) -> None:
    """Make all changes larger than any training would."""
    for change in changes_of(network).values():
        nn.init.normal_(change.up.weight, std=0.3)  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [("attention",), ("all",)])
def test_at_first_and_when_off_the_answer_is_that_of_the_network(unet: UNet, parts: tuple[str, ...]) -> None:
    if parts == ("all",):  # adapted convolutions are called as such, which rounds otherwise
        for part in unet.modules():
            if isinstance(part, Upsample):
                part.fused = False
    before = answer(unet.requires_grad_(False))  # torch folds products of weights that are trained in another way
    adapt(unet, layers_of(unet, parts), rank=2, scale=0.5)
    assert torch.equal(answer(unet), before)
    train(unet)
    changed = answer(unet)
    assert not torch.allclose(changed, before, atol=1e-3)
    with strength(unet, 0):
        assert torch.equal(answer(unet), before)
    assert torch.equal(answer(unet), changed)


def test_the_change_is_that_of_the_weights_times_scale_and_strength(unet: UNet) -> None:
    merged = copy.deepcopy(unet)
    names = layers_of(unet, ["all"])
    adapt(unet, names, rank=2, scale=0.5)
    train(unet)
    state = of_changes(unet.state_dict())
    assert {*state} == {name + end for name in names for end in (DOWN, UP)}
    for name in names:
        change = Change(state[name + DOWN], state[name + UP], 0.7 * 0.5)
        merged.get_submodule(name).weight.data += change.weight()  # type: ignore[union-attr, operator]
    with strength(unet, 0.7):
        torch.testing.assert_close(answer(unet), answer(merged), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv3d(4, 6, 3, stride=(1, 2, 2), padding=1), nn.Linear(4, 6)]
)
def test_every_kind_of_layer_and_stride(layer: nn.Module) -> None:
    sides = {nn.Conv2d: (8, 8), nn.Conv3d: (4, 8, 8), nn.Linear: ()}[type(layer)]
    x, change = torch.randn(2, 4, *sides), LowRank(layer, rank=3, scale=2.0)
    nn.init.normal_(change.up.weight)  # type: ignore[arg-type]
    wanted = copy.deepcopy(layer)
    made = Change(change.down.weight, change.up.weight, 2.0)  # type: ignore[arg-type]
    assert made.shape == tuple(layer.weight.shape)  # type: ignore[arg-type]
    wanted.weight.data += made.weight()  # type: ignore[union-attr, operator]
    torch.testing.assert_close(layer(x) + change(x), wanted(x), atol=1e-5, rtol=1e-4)


def test_only_changes_are_trained_and_gradients_reach_them(unet: UNet) -> None:
    adapt(unet, layers_of(unet, ["attention", "output"]), rank=2, scale=1.0)
    answer(unet).square().mean().backward()
    trained = {name for name, weight in unet.named_parameters() if weight.requires_grad}
    assert trained == {*of_changes(dict(unet.named_parameters()))}
    assert all((weight.grad is not None) == (name in trained) for name, weight in unet.named_parameters())
    assert all(change.up.weight.grad.any() for change in changes_of(unet).values())  # type: ignore[union-attr, operator]


def test_parts_are_what_their_names_say(unet: UNet) -> None:
    cross = layers_of(unet, ["cross-attention"])
    middle = layers_of(unet, ["middle-attention"])
    assert len(cross) == 3 * 7  # of 2 units on the way down, 1 in the middle, 4 on the way up
    assert middle == ["middle.first.attention.qkv", "middle.first.attention.output"]
    assert {*cross, *middle} < {*layers_of(unet, ["attention"])}
    assert layers_of(unet, ["output"]) == ["outputs.0.2"]
    everything = [name for name, part in unet.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    assert layers_of(unet, ["all", "output"]) == everything


def test_a_part_that_the_network_lacks_is_refused() -> None:
    plain = UNet(UNetConfig(widths=(32,), attention=("none",), mid_attention="none"))
    with pytest.raises(ConfigError, match="no attention to adapt; it has output, all"):
        layers_of(plain, ["attention"])


def test_a_second_adapter_on_the_same_layer_is_refused(unet: UNet) -> None:
    adapt(unet, ["outputs.0.2"], rank=1, scale=1.0)
    with pytest.raises(ConfigError, match=r"layer outputs\.0\.2 has an adapter already"):
        adapt(unet, ["outputs.0.2"], rank=1, scale=1.0)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (4.0, 0.5), (16.0, 2.0)])
def test_alpha_is_the_rank_unless_given(alpha: float | None, scale: float) -> None:
    assert LoraConfig(rank=8, alpha=alpha).scale == scale


def test_small_changes_of_a_bfloat16_network_are_kept_in_float32() -> None:
    layer = nn.Linear(4, 4).bfloat16()
    network = nn.Sequential(layer)
    adapt(network, ["0"], rank=1, scale=1.0)
    change = changes_of(network)["0"]
    nn.init.constant_(change.up.weight, 1.0)  # type: ignore[arg-type]
    with torch.no_grad():
        for _ in range(8):
            change.up.weight += 1e-4  # type: ignore[operator, misc]
    torch.testing.assert_close(change.up.weight, torch.full((4, 1), 1.0008), atol=1e-6, rtol=0)
    assert network(torch.randn(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
