"""A transformer over the positions of an image, as the UNet of latent diffusion has it (Rombach et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from medgen.nets.attention import full_attention, join_heads, split_heads, to_grid, to_tokens
from medgen.nets.blocks import zeroed
from medgen.nets.options import count_heads

NORM_EPS = 1e-6
"""Of the norm before the projection into the transformer, whatever the rest of the UNet has."""
WIDENING = 4


class TokenAttention(nn.Module):
    """Attention from tokens to tokens, without biases of query, key and value."""

    def __init__(self, width: int, context_width: int, head_width: int) -> None:
        super().__init__()
        self.heads = count_heads(width, head_width)
        self.formula = True
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_width, 2 * width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor, real: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, width), attending to context (B, L, context_width) where it is real, to (B, N, width)."""
        query = split_heads(self.query(tokens), self.heads)
        key, value = (split_heads(part, self.heads) for part in self.key_value(context).chunk(2, dim=-1))
        out: Tensor = self.output(join_heads(full_attention(query, key, value, real, formula=self.formula)))
        return out


class Transformer(nn.Module):
    """x + project(block(project(norm(x)))); the last projection begins at zero.

    The block is self-attention, cross-attention (if there is a context) and a gated MLP (GEGLU, Shazeer 2020), each
    added to its normalized input's origin.
    """

    def __init__(self, width: int, context_width: int, *, head_width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, NORM_EPS)
        self.input = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.attention = TokenAttention(width, width, head_width)
        self.norm2, self.cross_attention = None, None
        if context_width:
            self.norm2 = nn.LayerNorm(width)
            self.cross_attention = TokenAttention(width, context_width, head_width)
        self.norm3 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * WIDENING * width)
        self.narrow = nn.Linear(WIDENING * width, width)
        self.output = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor | None, real: Tensor | None = None) -> Tensor:
        """Map x (B, C, *S) and context (B, L, context_width) to (B, C, *S); real (B, L) bool, False = padding."""
        tokens = self.input(to_tokens(self.norm(x)))  # (B, N, C)
        seen = self.norm1(tokens)
        tokens = tokens + self.attention(seen, seen)
        if self.cross_attention is not None and self.norm2 is not None:
            tokens = tokens + self.cross_attention(self.norm2(tokens), context, real)
        value, gate = self.widen(self.norm3(tokens)).chunk(2, dim=-1)
        tokens = tokens + self.narrow(value * F.gelu(gate))
        return x + to_grid(self.output(tokens), x)
