"""Attention layers: right formula, global reach, linear cost."""

from __future__ import annotations

import math

import pytest
import torch

from medgen.errors import ConfigError
from medgen.nets.attention import FEW_TOKENS, CrossAttention, SelfAttention, full_attention, linear_attention


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def awake(layer: torch.nn.Module) -> torch.nn.Module:
    """The layer with its zeroed output projection made random, so that it does something."""
    torch.manual_seed(0)
    torch.nn.init.normal_(layer.output.weight, std=0.5)
    return layer


def self_attention(kind: str) -> torch.nn.Module:
    return awake(SelfAttention(16, kind=kind, head_width=8, groups=4, norm_eps=1e-5))


def test_full_attention_equals_its_formula():
    q, k, v = (randn(2, 3, 20, 8, seed=seed) for seed in range(3))
    weights = (q @ k.mT / math.sqrt(8)).softmax(dim=-1)
    torch.testing.assert_close(full_attention(q, k, v), weights @ v)


@pytest.mark.parametrize("tokens", [20, FEW_TOKENS + 1])
def test_full_attention_in_bfloat16_equals_it_in_float32_to_its_precision(tokens):
    q, k, v = (randn(1, 2, tokens, 8, seed=seed).bfloat16() for seed in range(3))
    attended = full_attention(q, k, v)
    assert attended.dtype == torch.bfloat16
    torch.testing.assert_close(attended.float(), full_attention(q.float(), k.float(), v.float()), atol=0.02, rtol=0.02)


def test_linear_attention_equals_its_explicit_quadratic_form():
    q, k, v = (randn(2, 3, 20, 8, seed=seed).double() for seed in range(3))
    weights = q.softmax(dim=-1) @ k.softmax(dim=-2).mT  # (2, 3, 20, 20)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 20, dtype=torch.float64))
    torch.testing.assert_close(linear_attention(q, k, v), weights @ v)


@pytest.mark.parametrize("kind", ["linear", "full"])
@pytest.mark.parametrize("shape", [(12, 12), (3, 8, 8)])
def test_one_changed_pixel_is_felt_far_away(kind, shape):
    layer = self_attention(kind)
    x = randn(1, 16, *shape)
    changed = x.clone()
    first = (0, slice(None), *[0] * len(shape))
    last = (0, slice(None), *[-1] * len(shape))
    # Within each norm group the change has mean zero and keeps the square sum, so that the norm does not carry it.
    changed[first] = x[first].view(4, 4).flip(1).flatten()
    normed, normed_changed = layer.norm(x), layer.norm(changed)
    torch.testing.assert_close(normed[last], normed_changed[last])
    assert (layer(x)[last] - layer(changed)[last]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["linear", "full"])
def test_positions_are_treated_alike(kind):
    layer = self_attention(kind)
    x = randn(2, 16, 6, 6)
    torch.testing.assert_close(layer(x.flip(-1)), layer(x).flip(-1))


def test_linear_attention_forms_no_position_by_position_matrix():
    q, k, v = (randn(1, 1, 20_000, 4, seed=seed) for seed in range(3))
    with torch.profiler.profile(profile_memory=True) as profile:
        linear_attention(q, k, v)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    assert allocated < 20 * q.numel() * 4  # the N x N matrix alone would be 5000 times q


def test_layers_begin_as_the_identity():
    x = randn(2, 16, 6, 6)
    for kind in ("linear", "full"):
        layer = SelfAttention(16, kind=kind, head_width=8, groups=4, norm_eps=1e-5)
        torch.testing.assert_close(layer(x), x, atol=0, rtol=0)
    cross = CrossAttention(16, 5, head_width=8, groups=4, norm_eps=1e-5)
    torch.testing.assert_close(cross(x, randn(2, 3, 5)), x, atol=0, rtol=0)


def test_cross_attention_depends_on_tokens_but_not_on_their_order():
    layer = awake(CrossAttention(16, 5, head_width=8, groups=4, norm_eps=1e-5))
    x, context = randn(2, 16, 6, 6), randn(2, 7, 5, seed=1)
    torch.testing.assert_close(layer(x, context.flip(1)), layer(x, context))
    assert (layer(x, context) - layer(x, 2 * context)).abs().max() > 1e-3
    repeated = context[:, :1].expand(-1, 4, -1)
    torch.testing.assert_close(layer(x, repeated), layer(x, context[:, :1]))


def test_a_head_width_that_does_not_divide_is_a_configuration_error():
    with pytest.raises(ConfigError, match="head_width = 7"):
        SelfAttention(16, kind="full", head_width=7, groups=4, norm_eps=1e-5)
