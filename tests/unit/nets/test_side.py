"""Dense Hint Input and the side network: closed forms, and silent until trained."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from torch.nn import functional as F

from medgen.config import convert, plain
from medgen.errors import ConfigError, DataError
from medgen.nets.condition import Condition
from medgen.nets.options import SideConfig, UNetConfig
from medgen.nets.side.hint import DenseHint, HintBlock, PatchMerging
from medgen.nets.side.network import SideNetwork
from medgen.nets.unet import UNet

SIDE = SideConfig(classes=2, factor=2, hint_width=4)
TRUNK = UNetConfig(
    in_channels=3, out_channels=3, widths=(8, 16), blocks=1, attention=("none", "full"), head_width=8, time_width=32,
    groups=4,
)  # fmt: skip
SIDED = replace(TRUNK, side=SIDE)
TIME = torch.tensor([1.0, 700.0])


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, MASK = randn(2, 3, 8, 8), (randn(2, 2, 16, 16, seed=1) > 0).float()


def awake(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The network with its zeroed layers made random."""
    torch.manual_seed(seed)
    for weight in network.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return network.eval()


def test_hint_block_has_the_stated_form() -> None:
    torch.manual_seed(0)
    block, x = HintBlock(5), randn(2, 5, 6, 7)
    first = F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1)
    second = F.conv2d(F.silu(first), block.conv2.weight, block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x), F.silu(x + second))


def test_patch_merging_normalizes_and_reduces_each_patch_of_four() -> None:
    torch.manual_seed(0)
    merging, x = PatchMerging(3), randn(2, 3, 4, 6)
    torch.nn.init.normal_(merging.norm.weight)
    torch.nn.init.normal_(merging.norm.bias)
    out = merging(x)
    assert out.shape == (2, 6, 2, 3)
    for sample, row, column in [(0, 0, 0), (1, 1, 2), (0, 1, 1)]:
        patch = x[sample, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten()  # (12,)
        normalized = (patch - patch.mean()) / (patch.var(correction=0) + merging.norm.eps).sqrt()
        expected = merging.reduce.weight @ (normalized * merging.norm.weight + merging.norm.bias)
        torch.testing.assert_close(out[sample, :, row, column], expected)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_the_hint_follows_the_downsampling_and_is_silent_at_first(factor: int) -> None:
    hint = DenseHint(3, 4, factor, 10)
    mask = torch.ones(2, 3, 2 * factor, 3 * factor)
    assert hint(mask).shape == (2, 10, 2, 3)
    assert not hint(mask).any()
    assert awake(hint)(mask).any()


def test_the_full_hint_has_the_published_layers() -> None:
    """conv 3-16, Res16, conv 16-32, Res32, merge, conv 64-64, Res64, merge, ..., Res256, conv 256-320."""
    hint = DenseHint(3, 16, 8, 320)
    kinds: list[tuple[str, int]] = []
    for layer in hint.body:
        width = layer.conv1.out_channels if isinstance(layer, HintBlock) else getattr(layer, "out_channels", 0)
        kinds.append((type(layer).__name__, width or layer.reduce.out_features))
    assert hint.entry.weight.shape == (16, 3, 3, 3)
    assert kinds == [
        ("HintBlock", 16), ("Conv2d", 32), ("HintBlock", 32),
        ("PatchMerging", 64), ("Conv2d", 64), ("HintBlock", 64),
        ("PatchMerging", 128), ("Conv2d", 128), ("HintBlock", 128),
        ("PatchMerging", 256), ("Conv2d", 256), ("HintBlock", 256),
    ]  # fmt: skip
    assert hint.exit.weight.shape == (320, 256, 3, 3)


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (2, 1, 16, 16), (1, 2, 16, 16)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="expected 2 channels, and sides 2 times those of what the network sees, 8 x 8"):
        UNet(SIDED)(X, TIME, Condition(mask=torch.zeros(shape)))
    with pytest.raises(ConfigError, match="a mask was given to a network without a side network"):
        UNet(TRUNK)(X, TIME, Condition(mask=MASK))


def test_a_new_side_network_leaves_the_trunk_as_it_is_to_the_bit() -> None:
    sided = UNet(SIDED)
    trunk = awake(UNet(TRUNK))
    sided.load_state_dict(trunk.state_dict(), strict=False)
    sided.side.begin_as(sided.down, sided.middle)
    answer = sided(X, TIME, Condition(mask=MASK))
    assert answer.any()
    assert torch.equal(answer, trunk(X, TIME))
    awake(sided.side)
    assert not torch.equal(sided(X, TIME, Condition(mask=MASK)), trunk(X, TIME))


def test_where_the_condition_is_not_present_the_trunk_stands_alone() -> None:
    sided = awake(UNet(SIDED))
    here = Condition(mask=MASK, present=torch.tensor([True, False]))
    torch.testing.assert_close(sided(X, TIME, here)[0], sided(X, TIME, Condition(mask=MASK))[0])
    torch.testing.assert_close(sided(X, TIME, here)[1], sided(X, TIME)[1])
    assert (sided(X, TIME, here)[0] - sided(X, TIME)[0]).abs().max() > 1e-4


def test_it_traces_without_graph_breaks_and_runs_in_half_precision() -> None:
    sided = awake(UNet(SIDED))
    condition = Condition(mask=MASK, present=torch.tensor([True, False]))
    expected = sided(X, TIME, condition)
    compiled = torch.compile(sided, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X, TIME, condition), expected)
    half = sided.bfloat16()(X, TIME, condition)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.1 * expected.detach().abs().max().item(), rtol=0)


def test_it_begins_as_a_copy_of_the_trunk() -> None:
    trunk, side = awake(UNet(TRUNK)), SideNetwork(TRUNK, SIDE)
    side.begin_as(trunk.down, trunk.middle)
    for output in side.outputs:  # let through what they get
        torch.nn.init.dirac_(output.weight)
    embedding = randn(2, 32)
    skips = trunk.down(X, embedding, None)
    expected = [*skips, trunk.middle(skips[-1], embedding, None)]
    for residual, skip in zip(side(X, embedding, None, MASK), expected, strict=True):
        torch.testing.assert_close(residual, skip)
    side.down.input.weight.data.zero_()  # a copy: the trunk does not change with it
    assert trunk.down.input.weight.any()


def test_every_weight_of_it_learns() -> None:
    side = awake(SideNetwork(TRUNK, SIDE))
    sum(residual.square().mean() for residual in side(X, randn(2, 32), None, MASK)).backward()
    for name, weight in side.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_volumes_have_no_side_network() -> None:
    with pytest.raises(ConfigError, match="side needs dims = 2"):
        convert(UNetConfig, {"dims": 3, "side": {}}, "test")
    assert convert(UNetConfig, plain(SIDED), "test") == SIDED
    assert "side" not in plain(TRUNK)  # models without masks keep their bytes
