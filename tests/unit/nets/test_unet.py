"""The UNet: one class for 2-D and 3-D and for every condition."""

from __future__ import annotations

import msgspec
import pytest
import torch

from medgen.config import convert, plain
from medgen.errors import ConfigError, DataError
from medgen.nets.attention import Context, CrossAttention, SelfAttention
from medgen.nets.condition import Condition
from medgen.nets.options import UNetConfig
from medgen.nets.unet import UNet

TINY = UNetConfig(
    in_channels=3,
    out_channels=2,
    widths=(8, 16),
    blocks=1,
    attention=("linear", "full"),
    head_width=8,
    time_width=32,
    groups=4,
)
EVERYTHING = msgspec.structs.replace(
    TINY,
    vector_size=6,
    vector_hidden=12,
    context_width=5,
    gated_skips=True,
    feature_pyramid=True,
    heads=("noise", "velocity"),
    vector_map=2,
)


def in_3d(config: UNetConfig, **changes: object) -> UNetConfig:
    return msgspec.structs.replace(config, dims=3, **changes)


def build(config: UNetConfig, seed: int = 0) -> UNet:
    """A network with its zeroed layers made random: as initialised it would return zero for every input."""
    torch.manual_seed(seed)
    network = UNet(config).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def differs(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-4)


X = randn(3, 3, 8, 8)
TIME = torch.tensor([1.0, 250.0, 999.0])
VECTOR = torch.rand(3, 6, generator=torch.Generator().manual_seed(5))
TOKENS = randn(3, 4, 5, seed=6)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (TINY, (8, 12)),
        (EVERYTHING, (8, 8)),
        (in_3d(TINY), (3, 8, 12)),
        (in_3d(TINY), (1, 8, 8)),
        (in_3d(EVERYTHING), (1, 8, 8)),
        (in_3d(TINY, down_depth=True), (4, 8, 8)),
        (msgspec.structs.replace(TINY, widths=(8,), attention=("none",), mid_attention="none"), (7, 5)),
        (msgspec.structs.replace(TINY, widths=(8, 8, 16), attention=("none",) * 3, blocks=2), (8, 8)),
    ],
)
def test_output_has_the_shape_of_the_input(config, shape):
    x = randn(2, 3, *shape)
    assert build(config)(x, torch.tensor([3.0, 700.0])).shape == (2, 2, *shape)


def test_in_plane_downsampling_keeps_depth():
    volume = torch.zeros(1, 3, 5, 8, 8)
    embedding = torch.zeros(1, TINY.time_width)
    kept = build(in_3d(TINY)).down(volume, embedding, None)
    assert [tuple(skip.shape[2:]) for skip in kept] == [(5, 8, 8), (5, 8, 8), (5, 4, 4), (5, 4, 4)]
    halved = build(in_3d(TINY, down_depth=True)).down(volume[:, :, :4], embedding, None)
    assert [tuple(skip.shape[2:]) for skip in halved] == [(4, 8, 8), (4, 8, 8), (2, 4, 4), (2, 4, 4)]


def test_starts_at_zero_and_leaves_zero_with_training():
    torch.manual_seed(0)
    network = UNet(TINY)
    assert not network(X, TIME).any()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    target = X[:, :2]
    for _ in range(80):
        optimizer.zero_grad()
        loss = (network(X, TIME) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * target.square().mean()


@pytest.mark.parametrize("config", [EVERYTHING, in_3d(EVERYTHING), in_3d(EVERYTHING, down_depth=True)])
def test_gradient_reaches_every_parameter(config):
    network = build(config)
    x = randn(2, 3, *([2] if config.dims == 3 else []), 8, 8)
    keep = torch.tensor([True, False])
    condition = Condition(vector=VECTOR[:2], tokens=TOKENS[:2], present=keep)
    for head in config.heads:
        network(x, TIME[:2], condition, head=head).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_time_matters_and_one_number_serves_the_batch():
    network = build(TINY)
    assert differs(network(X, TIME), network(X, TIME + 5))
    torch.testing.assert_close(network(X, torch.tensor(7.0)), network(X, torch.full((3,), 7.0)))
    torch.testing.assert_close(network(X, torch.tensor(7)), network(X, torch.tensor(7.0)))


def test_null_vector_semantics():
    network = build(msgspec.structs.replace(TINY, vector_size=6))
    null = network(X, TIME)
    nobody = torch.zeros(3, dtype=torch.bool)
    torch.testing.assert_close(network(X, TIME, Condition(vector=VECTOR, present=nobody)), null, atol=1e-6, rtol=1e-6)
    healthy = network(X, TIME, Condition(vector=torch.zeros(3, 6)))
    assert differs(healthy, null)
    assert differs(network(X, TIME, Condition(vector=VECTOR)), healthy)
    mixed = network(X, TIME, Condition(vector=VECTOR, present=torch.tensor([True, False, True])))
    torch.testing.assert_close(mixed[1], null[1])
    torch.testing.assert_close(mixed[0], network(X, TIME, Condition(vector=VECTOR))[0])


def test_null_context_semantics():
    network = build(msgspec.structs.replace(TINY, context_width=5))
    null = network(X, TIME)
    full = network(X, TIME, Condition(tokens=TOKENS))
    assert differs(full, null)
    mixed = network(X, TIME, Condition(tokens=TOKENS, present=torch.tensor([True, False, True])))
    torch.testing.assert_close(mixed[1], null[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[0], full[0], atol=1e-5, rtol=1e-5)


def test_samples_do_not_depend_on_the_rest_of_the_batch():
    network = build(EVERYTHING)
    together = network(X, TIME, Condition(vector=VECTOR, tokens=TOKENS))
    alone = network(X[1:2], TIME[1:2], Condition(vector=VECTOR[1:2], tokens=TOKENS[1:2]))
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "full"])
def test_attention_in_the_network_has_global_reach(kind):
    # With one level and one block the convolutions reach 11 pixels at most; the rest can come from attention alone.
    config = msgspec.structs.replace(TINY, widths=(8,), attention=("none",), mid_attention="none")
    x = randn(1, 3, 4, 64)
    changed = x.clone()
    changed[..., 0] *= -1
    reach = []
    for mid in ("none", kind):
        network = build(msgspec.structs.replace(config, mid_attention=mid))
        for module in network.modules():  # group norms spread a change too, but alike over all positions
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda h: h
        reach.append((network(x, TIME[:1]) - network(changed, TIME[:1]))[..., 40:].abs().max().item())
    assert reach[0] == 0
    assert reach[1] > 1e-6


def test_heads_are_selected_by_name():
    network = build(EVERYTHING)
    noise, velocity = network(X, TIME, head="noise"), network(X, TIME, head="velocity")
    assert differs(noise, velocity)
    torch.testing.assert_close(network(X, TIME), noise)
    # Each head has an embedding of time of its own: equal output layers still differ, until the embedders are equal.
    network.outputs[1].load_state_dict(network.outputs[0].state_dict())
    assert differs(network(X, TIME, head="velocity"), noise)
    assert differs(network.head_times[0](TIME), network.time(TIME))
    network.head_times[0].load_state_dict(network.time.state_dict())
    torch.testing.assert_close(network(X, TIME, head="velocity"), noise)
    with pytest.raises(ConfigError, match="no head 'flow'; heads: noise, velocity"):
        network(X, TIME, head="flow")


def test_each_residual_is_added_in_the_documented_order():
    network = build(TINY)
    plain_output = network(X, TIME)
    skips = network.down(X, torch.zeros(3, TINY.time_width), None)
    zeros = [torch.zeros_like(skip) for skip in [*skips, skips[-1]]]
    torch.testing.assert_close(network(X, TIME, residuals=zeros), plain_output, atol=0, rtol=0)
    for index in range(len(zeros)):
        residuals = list(zeros)
        residuals[index] = randn(*zeros[index].shape, seed=index)
        assert differs(network(X, TIME, residuals=residuals), plain_output), index
    with pytest.raises(DataError, match="4 residuals given, expected 5"):
        network(X, TIME, residuals=zeros[:-1])


def test_gates_weigh_the_skips():
    network = build(msgspec.structs.replace(TINY, gated_skips=True))
    assert len(network.up.gates) == 4
    open_gates = network(X, TIME)
    with torch.no_grad():
        for gate in network.up.gates:
            gate.weight.bias.fill_(-1e4)  # closed: nothing of the skips passes
    closed = network(X, TIME)
    assert differs(open_gates, closed)
    residuals = [randn(*skip.shape) for skip in network.down(X, torch.zeros(3, 32), None)]
    residuals.append(torch.zeros_like(residuals[-1]))
    torch.testing.assert_close(network(X, TIME, residuals=residuals), closed)


def units_with(network: UNet, part: str) -> set[str]:
    """The levels and the middle, as down.0 (finest), middle, up.0 (finest), that have this kind of attention."""
    last = len(network.config.widths) - 1
    named = {f"down.{level}": steps for level, steps in enumerate(network.down.levels)}
    named |= {f"up.{last - level}": steps for level, steps in enumerate(network.up.levels)} | {"middle": network.middle}
    kind = {"self": SelfAttention, "cross": CrossAttention}[part]
    return {name for name, steps in named.items() if any(isinstance(module, kind) for module in steps.modules())}


def test_the_way_up_has_its_own_self_attention():
    both = msgspec.structs.replace(TINY, attention=("none", "full"))
    assert units_with(build(both), "self") == {"down.1", "middle", "up.1"}
    encoder = msgspec.structs.replace(both, up_attention=("none", "none"))
    assert units_with(build(encoder), "self") == {"down.1", "middle"}
    decoder = msgspec.structs.replace(both, attention=("none", "none"), up_attention=("linear", "full"))
    network = build(decoder)
    assert units_with(network, "self") == {"middle", "up.0", "up.1"}
    kinds = [module.kind for module in network.up.modules() if isinstance(module, SelfAttention)]
    assert kinds == ["full", "full", "linear", "linear"]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (None, {"down.0", "down.1", "middle", "up.0", "up.1"}),
        ((False, True), {"down.1", "middle", "up.1"}),
        ((False, False), {"middle"}),
    ],
)
def test_tokens_are_attended_to_at_the_chosen_levels(levels, expected):
    network = build(msgspec.structs.replace(TINY, context_width=5, cross_attention=levels))
    assert units_with(network, "cross") == expected
    embedding = torch.zeros(3, TINY.time_width)
    one, other = (network.down(X, embedding, Context(tokens)) for tokens in (TOKENS, -TOKENS))
    changed = [differs(a, b) for a, b in zip(one, other, strict=True)]
    assert changed == [False, "down.0" in expected, "down.0" in expected, "down.1" in expected]
    assert differs(network(X, TIME, Condition(tokens=TOKENS)), network(X, TIME, Condition(tokens=-TOKENS)))


def test_the_feature_pyramid_begins_as_nothing_and_shows_the_outputs_each_level():
    plain_config = msgspec.structs.replace(TINY, widths=(8, 8, 16), attention=("none",) * 3)
    network = build(plain_config)
    torch.manual_seed(0)
    pyramid = UNet(msgspec.structs.replace(plain_config, feature_pyramid=True)).eval()
    missing, unexpected = pyramid.load_state_dict(network.state_dict(), strict=False)
    assert (len(missing), unexpected) == (4, [])
    x = randn(3, 3, 8, 12)
    before = network(x, TIME)
    assert torch.equal(pyramid(x, TIME), before)
    for coarsest, lateral in zip((4, 2), pyramid.up.laterals, strict=True):  # coarsest first, in pixels of the finest
        with torch.no_grad():
            lateral.bias[0] = 1.0
        features = {}
        hook = lateral.register_forward_hook(lambda _, inputs, out, into=features: into.update(seen=inputs[0], out=out))
        assert differs(pyramid(x, TIME), before)
        hook.remove()
        assert features["seen"].shape[2:] == (8 // coarsest, 12 // coarsest)
        assert features["out"].shape[1] == 8
        with torch.no_grad():
            lateral.bias[0] = 0.0
    pyramid(x, TIME).square().mean().backward()
    assert all(lateral.weight.grad.abs().sum() > 0 for lateral in pyramid.up.laterals)


def test_new_gates_pass_what_was_there_before():
    network = build(TINY)
    torch.manual_seed(0)
    gated = UNet(msgspec.structs.replace(TINY, gated_skips=True)).eval()
    gated.load_state_dict(network.state_dict(), strict=False)
    skip, seen = randn(3, 16, 4, 4), randn(3, 16, 4, 4, seed=1)
    torch.testing.assert_close(gated.up.gates[0](skip, seen), 0.982 * skip, atol=1e-4, rtol=1e-3)
    before = network(X, TIME)
    assert (gated(X, TIME) - before).abs().mean() < 0.05 * before.abs().mean()


def test_a_gate_weighs_positions_by_the_skip_and_by_what_the_way_up_sees():
    gate = build(msgspec.structs.replace(TINY, gated_skips=True)).up.gates[0]
    torch.nn.init.normal_(gate.weight.weight)
    skip, seen = randn(1, 16, 4, 4), randn(1, 16, 4, 4, seed=1)
    weight = gate(skip, seen) / skip
    torch.testing.assert_close(weight, weight[:, :1].expand_as(weight))  # one weight a position, for all channels
    assert ((weight > 0) & (weight < 1)).all()
    assert weight[:, 0].std() > 1e-3
    moved = seen.clone()
    moved[..., 0, 0] += 3.0
    changed = (gate(skip, moved) / skip - weight)[0, 0].abs() > 1e-4
    assert changed.sum() == 1
    assert changed[0, 0]
    assert differs(gate(skip * 2, seen) / (skip * 2), weight)


def test_dropout_acts_in_training_only():
    network = build(msgspec.structs.replace(TINY, dropout=0.5))
    torch.testing.assert_close(network(X, TIME), network(X, TIME), atol=0, rtol=0)
    network.train()
    assert differs(network(X, TIME), network(X, TIME))


@pytest.mark.parametrize("config", [EVERYTHING, in_3d(EVERYTHING)])
def test_half_precision_and_channels_last_stay_close(config):
    network = build(config)
    x = X if config.dims == 2 else X[:, :, None]
    condition = Condition(vector=VECTOR, tokens=TOKENS, present=torch.tensor([True, False, True]))
    with torch.no_grad():
        expected = network(x, TIME, condition)
        tolerance = 0.05 * expected.abs().max().item()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(network(x, TIME, condition).float(), expected, atol=tolerance, rtol=0)
        layout = torch.channels_last if config.dims == 2 else torch.channels_last_3d
        network = network.to(memory_format=layout)
        torch.testing.assert_close(network(x.to(memory_format=layout), TIME, condition), expected, atol=1e-4, rtol=1e-4)
        half = network.bfloat16()(x, TIME, condition)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), expected, atol=2 * tolerance, rtol=0)


def test_traces_without_graph_breaks():
    network = build(EVERYTHING)
    condition = Condition(vector=VECTOR, tokens=TOKENS, present=torch.tensor([True, False, True]))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X, TIME, condition), network(X, TIME, condition))


def test_wrong_inputs_are_refused_with_the_remedy():
    network = build(TINY)
    with pytest.raises(DataError, match="multiples of 2; pad or crop"):
        network(torch.zeros(1, 3, 8, 7), TIME[:1])
    with pytest.raises(DataError, match="C = 3"):
        network(torch.zeros(1, 4, 8, 8), TIME[:1])
    with pytest.raises(DataError, match=r"\(B, C, D, H, W\)"):
        build(in_3d(TINY))(X, TIME)
    with pytest.raises(DataError, match="multiples of 2"):
        build(in_3d(TINY, down_depth=True))(torch.zeros(1, 3, 3, 8, 8), TIME[:1])
    with pytest.raises(ConfigError, match="vector_size"):
        network(X, TIME, Condition(vector=VECTOR))
    with pytest.raises(ConfigError, match="context_width"):
        network(X, TIME, Condition(tokens=TOKENS))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"groups": 24}, "groups = 24 does not divide width 128"),
        ({"attention": ["full"]}, "attention names 1 levels but widths names 3"),
        ({"attention": ["full", "full", "flash"]}, "flash"),
        ({"up_attention": ["full"]}, "up_attention names 1 levels"),
        ({"context_width": 4, "cross_attention": [True]}, "cross_attention names 1 levels"),
        ({"cross_attention": [True, True, False]}, "cross_attention needs context_width"),
        ({"up_attention": ["linear", "full", "full"], "head_width": 256}, "head_width = 256 does not divide width 128"),
        ({"head_width": 48}, "head_width = 48 does not divide width 256"),
        ({"heads": ["a", "a"]}, "not distinct"),
        ({"heads": []}, "heads"),
        ({"down_depth": True}, "down_depth needs dims = 3"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_configurations_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        convert(UNetConfig, values, "test")


def test_configuration_survives_being_stored():
    assert convert(UNetConfig, plain(EVERYTHING), "test") == EVERYTHING
    assert UNetConfig().factor == 4
