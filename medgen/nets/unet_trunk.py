"""The trunk of the UNet: the way down, the middle, and the way up (Ho et al. 2020; Dhariwal & Nichol 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.nets.attention import Context, CrossAttention, SelfAttention
from medgen.nets.blocks import AttentionGate, Downsample, ResidualBlock, Upsample, convolution, zeroed
from medgen.nets.options import LevelAttention, UNetConfig
from medgen.nets.transformer import Transformer


class Unit(nn.Module):
    """Residual block, then self-attention and cross-attention if the level has them, or both in a transformer."""

    def __init__(self, config: UNetConfig, in_width: int, out_width: int, attends: LevelAttention) -> None:
        super().__init__()
        groups, eps, head_width = config.groups, config.norm_eps, attends.head_width
        context_width = config.context_width if attends.cross else 0
        self.residual = _residual(config, in_width, out_width)
        self.attention: nn.Module = nn.Identity()
        self.cross_attention, self.transformer = None, None
        if attends.attention == "transformer":
            self.transformer = Transformer(out_width, context_width, head_width=head_width, groups=groups)
            return
        if attends.attention != "none":
            self.attention = SelfAttention(
                out_width, kind=attends.attention, head_width=head_width, groups=groups, norm_eps=eps
            )
        if context_width:
            self.cross_attention = CrossAttention(
                out_width, context_width, head_width=head_width, groups=groups, norm_eps=eps
            )

    def forward(self, h: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        """Map h (B, C, *S) to (B, C', *S)."""
        h = self.attention(self.residual(h, embedding))
        if self.cross_attention is not None and context is not None:
            h = self.cross_attention(h, *context)
        if self.transformer is not None:
            h = self.transformer(h, *(context or (None,)))
        return h


def _residual(config: UNetConfig, in_width: int, out_width: int) -> ResidualBlock:
    return ResidualBlock(
        config.dims,
        in_width,
        out_width,
        groups=config.groups,
        norm_eps=config.norm_eps,
        embedding_width=config.time_width,
        scales=config.modulation == "scale-shift",
        dropout=config.dropout,
    )


class DownPath(nn.Module):
    """Input convolution and the levels on the way down; every intermediate result is a skip."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.widths[0]
        self.input = convolution(config.dims, config.in_channels, width)
        self.levels = nn.ModuleList()
        self.skip_widths = [width]
        attends = config.levels_down
        for level, out_width in enumerate(config.widths):
            steps = nn.ModuleList()
            for _ in range(config.blocks):
                steps.append(Unit(config, width, out_width, attends[level]))
                width = out_width
            if level < len(config.widths) - 1:
                steps.append(Downsample(config.dims, width, depth=config.down_depth))
            self.skip_widths += [width] * len(steps)
            self.levels.append(steps)

    def forward(
        self, x: Tensor, embedding: Tensor, context: Context | None, drawing: Tensor | None = None
    ) -> list[Tensor]:
        """Return the skips, finest first; the last one is what enters the middle.

        drawing (B, widths[0], *S) is added to the output of the input convolution.
        """
        skips: list[Tensor] = [self.input(x) if drawing is None else self.input(x) + drawing]
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
        self.first = Unit(config, width, width, config.middle)
        self.second = _residual(config, width, width)

    def forward(self, h: Tensor, embedding: Tensor, context: Context | None) -> Tensor:
        """Map h (B, C, *S) to the same shape."""
        out: Tensor = self.second(self.first(h, embedding, context), embedding)
        return out


class UpPath(nn.Module):
    """The levels on the way up; each unit takes in the skip of its own resolution, gated or as it is.

    With a feature pyramid (Lin et al. 2017), the features of the coarser levels are added to those of the finest, each
    through a 1x1 convolution that begins at zero and by repetition.
    """

    def __init__(self, config: UNetConfig, skip_widths: Sequence[int]) -> None:
        super().__init__()
        remaining, attends = list(skip_widths), config.levels_up
        width = config.widths[-1]
        self.levels = nn.ModuleList()
        self.gates = nn.ModuleList()
        self.laterals = nn.ModuleList()
        for level in reversed(range(len(config.widths))):
            steps = nn.ModuleList()
            for _ in range(config.blocks + 1):
                skip_width = remaining.pop()
                if config.gated_skips:
                    self.gates.append(AttentionGate(config.dims, skip_width, width))
                steps.append(Unit(config, width + skip_width, config.widths[level], attends[level]))
                width = config.widths[level]
            if config.feature_pyramid and level > 0:
                self.laterals.append(zeroed(convolution(config.dims, width, config.widths[0], kernel=1)))
            if level > 0:
                steps.append(Upsample(config.dims, width, depth=config.down_depth))
            self.levels.append(steps)

    def forward(self, h: Tensor, skips: Sequence[Tensor], embedding: Tensor, context: Context | None) -> Tensor:
        """Map h at the coarsest level to the finest, (B, widths[0], *S); takes the skips from last to first."""
        remaining, gates, laterals = list(skips), list(self.gates)[::-1], list(self.laterals)[::-1]
        coarser: list[Tensor] = []
        for steps in self.levels:
            for step in steps:  # type: ignore[attr-defined]
                if isinstance(step, Upsample):
                    if laterals:
                        coarser.append(laterals.pop()(h))
                    h = step(h)
                    continue
                skip = remaining.pop()
                if gates:
                    skip = gates.pop()(skip, h)
                h = step(torch.cat([h, skip], dim=1), embedding, context)
        for features in coarser:
            h = h + F.interpolate(features, h.shape[2:])
        return h
