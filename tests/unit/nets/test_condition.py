"""A condition is one thing: what is done to it is done to each of its parts, and each part has the same null."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from medgen.errors import ConfigError, DataError
from medgen.nets.condition import NOTHING, Condition
from medgen.nets.options import SideConfig, UNetConfig
from medgen.nets.unet import UNet

CONFIG = UNetConfig(
    in_channels=2, out_channels=2, widths=(8, 16), blocks=1, attention=("none", "none"), mid_attention="none",
    time_width=16, groups=4, vector_size=3, vector_hidden=8,
)  # fmt: skip
X, TIME = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 400.0, 900.0])
VECTOR = torch.rand(3, 3, generator=torch.Generator().manual_seed(1))
MASK = (torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2)) > 0.5).to(torch.uint8)
FULL = Condition(vector=VECTOR, mask=MASK, tokens=torch.rand(3, 2, 5))
PRESENT = torch.tensor([True, False, True])


class Side(nn.Module):
    """Speaks to the middle alone: the share of the mask that is set, everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None, mask: Tensor) -> list[Tensor]:
        self.calls.append(len(x))
        mask = mask.to(x.dtype)
        assert embedding.shape == (len(x), CONFIG.time_width)
        silent = [x.new_zeros(len(x), width, 8 // factor, 8 // factor) for width, factor in ((8, 1), (8, 1), (8, 2))]
        share = mask.mean((1, 2, 3), keepdim=True)
        return [*silent, x.new_zeros(len(x), 16, 4, 4), share.expand(-1, 16, 4, 4)]


def network(side: nn.Module | None = None) -> UNet:
    torch.manual_seed(0)
    built = UNet(CONFIG)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.1)
    built.side = side
    return built.eval()


def test_rows_are_taken_from_every_part() -> None:
    some = FULL.dropped(PRESENT).of(torch.tensor([2, 0]))
    assert some.vector is not None
    assert some.mask is not None
    assert some.tokens is not None
    assert some.present is not None
    assert torch.equal(some.vector, VECTOR[[2, 0]])
    assert torch.equal(some.mask, MASK[[2, 0]])
    assert len(some.tokens) == 2
    assert some.present.tolist() == [True, True]
    assert NOTHING.of(torch.tensor([1, 2])) == NOTHING


def test_what_is_dropped_stays_dropped() -> None:
    both = FULL.dropped(PRESENT).dropped(torch.tensor([True, True, False]))
    assert both.present is not None
    assert both.present.tolist() == [True, False, False]
    assert FULL.present is None
    assert NOTHING.null() == NOTHING


def test_joining_lays_the_batches_one_after_another() -> None:
    both = FULL.joined(FULL.null())
    assert both.vector is not None
    assert both.present is not None
    assert torch.equal(both.vector, VECTOR.repeat(2, 1))
    assert both.present.tolist() == [True] * 3 + [False] * 3
    with pytest.raises(DataError, match="a condition of vector, present cannot be joined with one of nothing"):
        Condition(vector=VECTOR).joined(NOTHING)


def test_a_network_answers_a_joined_batch_as_it_answers_each() -> None:
    unet = network(Side())
    asked = Condition(vector=VECTOR, mask=MASK)
    together = unet(X.repeat(2, 1, 1, 1), TIME.repeat(2), asked.joined(asked.null()))
    torch.testing.assert_close(together[:3], unet(X, TIME, asked), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[3:], unet(X, TIME), atol=1e-5, rtol=1e-5)


def test_a_mask_acts_by_residuals_of_the_side_network_where_it_is_present() -> None:
    unet = network(Side())
    null, masked = unet(X, TIME), unet(X, TIME, Condition(mask=MASK))
    assert ((masked - null).flatten(1).abs().amax(1) > 1e-3).all()
    mixed = unet(X, TIME, Condition(mask=MASK, present=PRESENT))
    torch.testing.assert_close(mixed[PRESENT], masked[PRESENT])
    torch.testing.assert_close(mixed[1], null[1], atol=0, rtol=0)
    silent = unet(X, TIME, Condition(mask=torch.zeros_like(MASK)))
    torch.testing.assert_close(silent, null, atol=0, rtol=0)


def test_residuals_that_are_given_take_the_place_of_those_of_the_mask() -> None:
    unet = network(Side())
    given = Side()(X, torch.zeros(3, 16), None, MASK.float())
    torch.testing.assert_close(unet(X, TIME, residuals=given), unet(X, TIME, Condition(mask=MASK)))
    zeros = [torch.zeros_like(residual) for residual in given]
    torch.testing.assert_close(unet(X, TIME, Condition(mask=MASK), residuals=zeros), unet(X, TIME), atol=0, rtol=0)


def test_a_network_without_a_side_network_refuses_a_mask() -> None:
    with pytest.raises(ConfigError, match="without a side network"):
        network()(X, TIME, Condition(mask=MASK))


def test_in_sampling_the_side_network_sees_those_rows_alone_that_ask_for_something() -> None:
    side = Side()
    unet, asked = network(side), Condition(vector=VECTOR[[0, 1, 2, 0]], mask=MASK[[0, 1, 2, 0]])
    both, x, time = asked.joined(asked.null()), X[[0, 1, 2, 0] * 2], TIME[[0, 1, 2, 0] * 2]
    expected = unet(x, time, both)
    with torch.inference_mode():
        torch.testing.assert_close(unet(x, time, both), expected)
        late = unet(x, time, asked.null().joined(asked))
    torch.testing.assert_close(late[4:], expected[:4])
    assert side.calls == [8, 4, 4]


def test_a_prepared_condition_gives_the_same_answers_with_its_features_made_once() -> None:
    torch.manual_seed(1)
    unet = UNet(replace(CONFIG, side=SideConfig(factor=1, hint_width=4)))
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    asked = Condition(vector=VECTOR, mask=MASK)
    prepared = unet.prepared(asked)
    assert prepared.mask is None
    assert unet.side is not None
    unet.side.hint.entry.weight.data.fill_(float("nan"))  # nothing looks at the mask again
    unet_before = unet(X, TIME, prepared.joined(prepared.null()).of(torch.tensor([0, 1, 5])))
    assert torch.isfinite(unet_before).all()
    assert not torch.isfinite(unet(X, TIME, asked)).all()
    nothing = unet.prepared(Condition(vector=VECTOR))
    assert nothing.vector is VECTOR
    assert nothing.hint is None
