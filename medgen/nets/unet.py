"""One UNet for 2-D and 3-D and for every condition (Ho et al. 2020; Dhariwal & Nichol 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.config import Options
from medgen.errors import ConfigError, DataError
from medgen.nets.attention import AttentionKind, CrossAttention, SelfAttention, count_heads
from medgen.nets.blocks import (
    AttentionGate,
    Downsample,
    ResidualBlock,
    Upsample,
    check_groups,
    convolution,
    zeroed,
)
from medgen.nets.embedders import TimeEmbedder, VectorEmbedder

Count = Annotated[int, Meta(ge=1)]
Size = Annotated[int, Meta(ge=0)]


class UNetConfig(Options, frozen=True):
    """Shape of a UNet; n widths mean n levels and a downsampling factor of 2^(n-1)."""

    dims: Literal[2, 3] = 2
    in_channels: Count = 8
    out_channels: Count = 8
    widths: Annotated[tuple[Count, ...], Meta(min_length=1)] = (128, 256, 512)
    blocks: Count = 2
    """Residual blocks a level on the way down; one more on the way up."""
    attention: tuple[AttentionKind, ...] = ("none", "linear", "full")
    """Self-attention of each level, finest first."""
    mid_attention: AttentionKind = "full"
    head_width: Count = 32
    """Channels of one attention head."""
    time_width: Count = 1024
    """Width of the embedding of time and vector."""
    groups: Count = 32
    norm_eps: Annotated[float, Meta(gt=0)] = 1e-5
    vector_size: Size = 0
    """Numbers in the condition vector; 0 = no vector condition."""
    vector_hidden: Count = 256
    context_width: Size = 0
    """Width of the context tokens for cross-attention at every level; 0 = none."""
    gated_skips: bool = False
    heads: Annotated[tuple[str, ...], Meta(min_length=1)] = ("output",)
    """Names of the outputs, each with out_channels; the first is the default."""
    down_depth: bool = False
    """3-D only: halve depth between levels too."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        check_groups(self.groups, self.widths)
        if len(self.attention) != len(self.widths):
            raise ConfigError(
                f"attention names {len(self.attention)} levels but widths names {len(self.widths)}: give one a level"
            )
        if len(set(self.heads)) != len(self.heads):
            raise ConfigError(f"heads {', '.join(self.heads)} are not distinct; give each output a name of its own")
        if self.down_depth and self.dims == 2:
            raise ConfigError("down_depth needs dims = 3: a 2-D image has no depth")
        kinds = [*zip(self.widths, self.attention, strict=True), (self.widths[-1], self.mid_attention)]
        for width, kind in kinds:
            if kind != "none" or self.context_width:
                count_heads(width, self.head_width)

    @property
    def factor(self) -> int:
        """Input side / side of the coarsest level."""
        return int(2 ** (len(self.widths) - 1))


class Unit(nn.Module):
    """Residual block, then self-attention and cross-attention where the configuration asks for them."""

    def __init__(self, config: UNetConfig, in_width: int, out_width: int, attention: AttentionKind) -> None:
        super().__init__()
        groups, eps = config.groups, config.norm_eps
        self.residual = ResidualBlock(
            config.dims,
            in_width,
            out_width,
            groups=groups,
            norm_eps=eps,
            embedding_width=config.time_width,
            dropout=config.dropout,
        )
        self.attention: nn.Module = nn.Identity()
        if attention != "none":
            self.attention = SelfAttention(
                out_width, kind=attention, head_width=config.head_width, groups=groups, norm_eps=eps
            )
        self.cross_attention = None
        if config.context_width:
            self.cross_attention = CrossAttention(
                out_width, config.context_width, head_width=config.head_width, groups=groups, norm_eps=eps
            )

    def forward(self, h: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        """Map h (B, C, *S) to (B, C', *S)."""
        h = self.attention(self.residual(h, embedding))
        if self.cross_attention is not None:
            h = self.cross_attention(h, context)
        return h


class DownPath(nn.Module):
    """Input convolution and the levels on the way down; every intermediate result is a skip."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.widths[0]
        self.input = convolution(config.dims, config.in_channels, width)
        self.levels = nn.ModuleList()
        self.skip_widths = [width]
        for level, out_width in enumerate(config.widths):
            steps = nn.ModuleList()
            for _ in range(config.blocks):
                steps.append(Unit(config, width, out_width, config.attention[level]))
                width = out_width
            if level < len(config.widths) - 1:
                steps.append(Downsample(config.dims, width, depth=config.down_depth))
            self.skip_widths += [width] * len(steps)
            self.levels.append(steps)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> list[Tensor]:
        """Return the skips, finest first; the last one is what enters the middle."""
        skips: list[Tensor] = [self.input(x)]
        for steps in self.levels:
            for step in steps:  # type: ignore[attr-defined]
                h = skips[-1]
                skips.append(step(h) if isinstance(step, Downsample) else step(h, embedding, context))
        return skips


class Middle(nn.Module):
    """Two residual blocks at the coarsest level with attention between them."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.first = Unit(config, width, width, config.mid_attention)
        self.second = ResidualBlock(
            config.dims,
            width,
            width,
            groups=config.groups,
            norm_eps=config.norm_eps,
            embedding_width=config.time_width,
            dropout=config.dropout,
        )

    def forward(self, h: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        """Map h (B, C, *S) to the same shape."""
        out: Tensor = self.second(self.first(h, embedding, context), embedding)
        return out


class UpPath(nn.Module):
    """The levels on the way up; each unit takes in the skip of its own resolution, gated or as it is."""

    def __init__(self, config: UNetConfig, skip_widths: Sequence[int]) -> None:
        super().__init__()
        remaining = list(skip_widths)
        width = config.widths[-1]
        self.levels = nn.ModuleList()
        self.gates = nn.ModuleList()
        for level in reversed(range(len(config.widths))):
            steps = nn.ModuleList()
            for _ in range(config.blocks + 1):
                skip_width = remaining.pop()
                if config.gated_skips:
                    self.gates.append(AttentionGate(config.dims, skip_width, width))
                steps.append(Unit(config, width + skip_width, config.widths[level], config.attention[level]))
                width = config.widths[level]
            if level > 0:
                steps.append(Upsample(config.dims, width, depth=config.down_depth))
            self.levels.append(steps)

    def forward(self, h: Tensor, skips: Sequence[Tensor], embedding: Tensor, context: Tensor | None) -> Tensor:
        """Map h at the coarsest level to the finest, (B, widths[0], *S); takes the skips from last to first."""
        remaining = list(skips)
        gates = iter(self.gates)
        for steps in self.levels:
            for step in steps:  # type: ignore[attr-defined]
                if isinstance(step, Upsample):
                    h = step(h)
                    continue
                skip = remaining.pop()
                gate = next(gates, None)
                if gate is not None:
                    skip = gate(skip, h)
                h = step(torch.cat([h, skip], dim=1), embedding, context)
        return h


class UNet(nn.Module):
    """Network of a diffusion model: noisy input, time and conditions to a prediction of the same shape.

    The null condition ("no condition", for classifier-free guidance) is learned: an embedding of its own for the
    vector and a token of its own for the context. `keep` False replaces a sample's vector and context by them.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.widths[0]
        self.time = TimeEmbedder(width, config.time_width)
        self.vector = None
        if config.vector_size:
            self.vector = VectorEmbedder(config.vector_size, config.vector_hidden, config.time_width)
        self.null_context = None
        if config.context_width:
            self.null_context = nn.Parameter(torch.randn(1, 1, config.context_width) * 0.02)
        # Heads may stand for different kinds of time (diffusion, flow), so the trunk is told which one is asked.
        self.head_embedding = nn.Embedding(len(config.heads), config.time_width) if len(config.heads) > 1 else None
        self.down = DownPath(config)
        self.middle = Middle(config)
        self.up = UpPath(config, self.down.skip_widths)
        self.outputs = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(config.groups, width, config.norm_eps),
                nn.SiLU(),
                zeroed(convolution(config.dims, width, config.out_channels)),
            )
            for _ in config.heads
        )

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        *,
        vector: Tensor | None = None,
        keep: Tensor | None = None,
        context: Tensor | None = None,
        residuals: Sequence[Tensor] | None = None,
        head: str | None = None,
    ) -> Tensor:
        """Map x (B, C, [D,] H, W) to (B, out_channels, [D,] H, W).

        time: (B,) or one number, in [0, 1000). vector: (B, K) in [0, 1]; None = null for all. keep: (B,) bool,
        False = null. context: (B, L, context_width); None = null for all. residuals: added to the skips, in the
        order in which the way down makes them (input convolution; then for each level, finest first, its blocks and
        its downsampling), and last to the middle's output. head: which output; None = the first.
        """
        self._check_input(x)
        x = x.to(self.down.input.weight.dtype)
        index = self._head_index(head)
        embedding = self._embed(x.shape[0], time, vector, keep, index)
        tokens = self._tokens(x.shape[0], context, keep)
        skips = self.down(x, embedding, tokens)
        h = self.middle(skips[-1], embedding, tokens)
        if residuals is not None:
            if len(residuals) != len(skips) + 1:
                raise DataError(
                    f"{len(residuals)} residuals given, expected {len(skips) + 1}: one a skip and the middle"
                )
            skips = [skip + residual for skip, residual in zip(skips, residuals, strict=False)]
            h = h + residuals[-1]
        h = self.up(h, skips, embedding, tokens)
        out: Tensor = self.outputs[index](h)
        return out

    def _embed(self, batch: int, time: Tensor, vector: Tensor | None, keep: Tensor | None, head: int) -> Tensor:
        """Embedding of time, vector and head, (B, time_width), with the SiLU that every block would begin with."""
        embedding: Tensor = self.time(time.reshape(-1).expand(batch))
        if self.vector is not None:
            embedding = embedding + self.vector(vector, keep, batch)
        elif vector is not None:
            raise ConfigError("a condition vector was given to a network without one; train it with vector_size > 0")
        if self.head_embedding is not None:
            embedding = embedding + self.head_embedding.weight[head]
        return F.silu(embedding)

    def _tokens(self, batch: int, context: Tensor | None, keep: Tensor | None) -> Tensor | None:
        """Context tokens (B, L, context_width) with the null token where there is no condition."""
        if self.null_context is None:
            if context is not None:
                raise ConfigError(
                    "context tokens were given to a network without them; train it with context_width > 0"
                )
            return None
        if context is None:
            return self.null_context.expand(batch, -1, -1)
        context = context.to(self.null_context.dtype)
        if keep is None:
            return context
        # Attention to L copies of one token equals attention to that token alone.
        return torch.where(keep[:, None, None], context, self.null_context)

    def _head_index(self, head: str | None) -> int:
        if head is None:
            return 0
        if head not in self.config.heads:
            raise ConfigError(f"the network has no head '{head}'; heads: {', '.join(self.config.heads)}")
        return self.config.heads.index(head)

    def _check_input(self, x: Tensor) -> None:
        config = self.config
        if x.ndim != config.dims + 2 or x.shape[1] != config.in_channels:
            axes = "(B, C, H, W)" if config.dims == 2 else "(B, C, D, H, W)"
            raise DataError(
                f"input of shape {tuple(x.shape)} does not fit the UNet: expected {axes} with C = {config.in_channels}"
            )
        halved = x.shape[2:] if config.down_depth else x.shape[-2:]
        if any(side % config.factor for side in halved):
            raise DataError(
                f"input of {' x '.join(map(str, x.shape[2:]))} does not fit the UNet: sides must be multiples of "
                f"{config.factor}; pad or crop it, or use fewer levels (widths)"
            )
