"""Attention over the positions of an image or volume: full, linear, and across to a context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.nets.blocks import zeroed
from medgen.nets.options import count_heads

FEW_TOKENS = 512
"""Up to this many, torch's fused attention in bfloat16 on a CPU is slower than the formula, backward 2 to 5 times."""


class Context(NamedTuple):
    """What positions attend to by cross-attention."""

    states: Tensor
    """(B, L, context_width)."""
    real: Tensor | None = None
    """(B, L) bool, False = padding, to which nothing attends; None = all are real."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Context:
        """The context with `change` applied to each of its tensors."""
        return Context(change(self.states), None if self.real is None else change(self.real))


def full_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    real: Tensor | None = None,
    *,
    formula: bool = True,
    causal: bool = False,
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for (B, heads, N, d) (Vaswani et al. 2017, eq. 1); O(N^2) time.

    `real` (B, M) bool: keys where it is False get no weight; each row needs one that does.
    `causal`: a query sees the keys up to its own number only.
    `formula`: for few tokens in bfloat16 on a CPU, compute the formula directly instead of by torch's fused kernel.
    """
    seen = None if real is None else real[:, None, None]
    if causal:
        before = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        seen = before if seen is None else seen & before
    if formula and query.device.type == "cpu" and query.dtype == torch.bfloat16 and key.shape[-2] <= FEW_TOKENS:
        weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, heads, N, M)
        if seen is not None:
            weights = weights.masked_fill(~seen, -torch.inf)
        attended: Tensor = weights.softmax(dim=-1) @ value
        return attended
    return F.scaled_dot_product_attention(query, key, value, seen)


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """rho(q) (rho(k)^T v) for (B, heads, N, d) (Shen et al. 2021, "Efficient Attention", eq. 4-5); O(N) time.

    rho is softmax over channels for q and over positions for k, so each row of rho(q) rho(k)^T is positive and
    sums to one: attention weights over all N positions, applied without ever forming the N x N matrix.
    """
    query = query.softmax(dim=-1)
    key = key.softmax(dim=-2)
    summary = key.transpose(-1, -2) @ value  # (B, heads, d, d)
    return query @ summary


class SelfAttention(nn.Module):
    """x + attention over all positions of norm(x); the output projection begins at zero."""

    def __init__(
        self, width: int, *, kind: Literal["linear", "full"], head_width: int, groups: int, norm_eps: float
    ) -> None:
        super().__init__()
        self.heads = count_heads(width, head_width)
        self.kind = kind
        self.formula = True
        self.norm = nn.GroupNorm(groups, width, norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S)."""
        qkv = self.qkv(to_tokens(self.norm(x)))  # (B, N, 3C)
        query, key, value = (split_heads(part, self.heads) for part in qkv.chunk(3, dim=-1))
        if self.kind == "linear":
            attended = linear_attention(query, key, value)
        else:
            attended = full_attention(query, key, value, formula=self.formula)
        return x + to_grid(self.output(join_heads(attended)), x)


class CrossAttention(nn.Module):
    """x + attention from each position of norm(x) to the tokens of a context; the output projection begins at zero."""

    def __init__(self, width: int, context_width: int, *, head_width: int, groups: int, norm_eps: float) -> None:
        super().__init__()
        self.heads = count_heads(width, head_width)
        self.formula = True
        self.norm = nn.GroupNorm(groups, width, norm_eps)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width, 2 * width)
        self.output = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor, real: Tensor | None = None) -> Tensor:
        """Map x (B, C, *S) and context (B, L, context_width) to (B, C, *S); real (B, L) bool, False = padding."""
        query = split_heads(self.query(to_tokens(self.norm(x))), self.heads)
        key, value = (split_heads(part, self.heads) for part in self.key_value(context).chunk(2, dim=-1))
        attended = full_attention(query, key, value, real, formula=self.formula)
        return x + to_grid(self.output(join_heads(attended)), x)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, N, C), one token a position."""
    return x.flatten(2).transpose(1, 2)


def to_grid(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, *S), with S as in `like`."""
    return tokens.transpose(1, 2).reshape(like.shape)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    batch, count, width = tokens.shape
    return tokens.reshape(batch, count, heads, width // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)
