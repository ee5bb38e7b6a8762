"""A small transformer that reads the words of a prompt, trained along with the UNet that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.errors import DataError
from medgen.nets.attention import full_attention, join_heads, split_heads
from medgen.nets.blocks import zeroed
from medgen.nets.options import TextConfig, count_heads

WIDENING = 4
DIRECT_SPREAD = 0.5
"""Standard deviation of the direct embeddings at first; the sum over a text is then as large as the time's."""


def quick_gelu(x: Tensor) -> Tensor:
    """X sigmoid(1.702 x), the approximation of GELU in CLIP (Hendrycks & Gimpel 2016, 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class TextStates(NamedTuple):
    """What an encoder makes of a batch of texts."""

    tokens: Tensor
    """(B, L, width), one state per word."""
    pooled: Tensor | None
    """(B, pooled width), of each text as a whole; None if the encoder makes none."""
    direct: Tensor | None = None
    """(B, time width), the sum of what each piece adds to the embedding of the time; None if they add nothing."""


class TextBlock(nn.Module):
    """Attention among the words, then an MLP, each after its norm and added to its input (Xiong et al. 2020)."""

    def __init__(self, config: TextConfig, width: int) -> None:
        super().__init__()
        self.causal = config.causal
        self.activation = ACTIVATIONS[config.activation]
        self.heads = count_heads(width, config.head_width)
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = zeroed(nn.Linear(width, width))
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, WIDENING * width)
        self.narrow = zeroed(nn.Linear(WIDENING * width, width))

    def forward(self, h: Tensor, real: Tensor | None) -> Tensor:
        """Map h (B, L, width) to the same shape; real (B, L) bool, False = padding, which no word looks at."""
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(self.norm1(h)).chunk(3, dim=-1))
        h = h + self.output(join_heads(full_attention(query, key, value, real, causal=self.causal)))
        out: Tensor = h + self.narrow(self.activation(self.widen(self.norm2(h))))
        return out


class TextEncoder(nn.Module):
    """Embeddings of words and places, transformer blocks, and a projection of the mean state as the pooled vector."""

    def __init__(self, config: TextConfig, width: int, pooled_width: int, time_width: int = 0) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary, width)
        self.places = nn.Parameter(torch.randn(config.length, width) * 0.02)
        self.blocks = nn.ModuleList(TextBlock(config, width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.pool = nn.Linear(width, pooled_width) if pooled_width else None
        self.direct = None
        if config.direct:
            self.direct = nn.Embedding(config.vocabulary, time_width)
            nn.init.normal_(self.direct.weight, std=DIRECT_SPREAD)

    def forward(self, words: Tensor, real: Tensor | None = None) -> TextStates:
        """Read words (B, L), ids of pieces; real (B, L) bool, False = padding. DataError for more than `length`."""
        length = words.shape[1]
        if length > len(self.places):
            raise DataError(f"a text of {length} pieces was given to an encoder that reads {len(self.places)}; cut it")
        h = self.words(words) + self.places[:length]
        for block in self.blocks:
            h = block(h, real)
        h = self.norm(h)
        pooled = None if self.pool is None else self.pool(mean_state(h, real))
        return TextStates(h, pooled, None if self.direct is None else _summed(self.direct(words), real))


def _summed(states: Tensor, real: Tensor | None) -> Tensor:
    """The sum (B, width) of states (B, L, width) over the words that are not padding."""
    return states.sum(1) if real is None else (states * real[:, :, None].to(states.dtype)).sum(1)


def mean_state(states: Tensor, real: Tensor | None) -> Tensor:
    """The mean (B, width) of states (B, L, width) over the words that are not padding."""
    if real is None:
        return states.mean(1)
    weights = real[:, :, None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
