"""One UNet for 2-D and 3-D and for every condition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.errors import ConfigError, DataError
from medgen.nets.blocks import convolution, zeroed
from medgen.nets.condition import NOTHING, Condition
from medgen.nets.embedders import TimeEmbedder, VectorEmbedder, VectorMap
from medgen.nets.unet_config import UNetConfig
from medgen.nets.unet_trunk import DownPath, Middle, UpPath

__all__ = ["UNet", "UNetConfig"]


class UNet(nn.Module):
    """Network of a diffusion model: noisy input, time and conditions to a prediction of the same shape.

    The null condition ("no condition", for classifier-free guidance) is learned: an embedding of its own for the
    vector and a token of its own for the tokens, which stand in where the condition is not present. A mask acts through
    the side network, whose residuals are zero there.
    """

    side: nn.Module | None
    """Maps x, the embedding (B, time_width), the tokens and a mask (B, M, H, W) to residuals for `forward`."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.widths[0]
        self.time = TimeEmbedder(width, config.time_width)
        self.vector = None
        if config.vector_size:
            self.vector = VectorEmbedder(config.vector_size, config.vector_hidden, config.time_width)
        self.vector_map = None
        if config.vector_size and config.vector_map:
            self.vector_map = VectorMap(config.vector_size, config.vector_map, width, config.dims)
        self.null_context = None
        if config.context_width:
            self.null_context = nn.Parameter(torch.randn(1, 1, config.context_width) * 0.02)
        # Heads may stand for different kinds of time (diffusion, flow): each further one embeds its own.
        self.head_times = nn.ModuleList(TimeEmbedder(width, config.time_width) for _ in config.heads[1:])
        self.down = DownPath(config)
        self.middle = Middle(config)
        self.side = None
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
        condition: Condition = NOTHING,
        *,
        residuals: Sequence[Tensor] | None = None,
        head: str | None = None,
    ) -> Tensor:
        """Map x (B, C, [D,] H, W) to (B, out_channels, [D,] H, W).

        time: (B,) or one number, in [0, 1000). condition: what each sample is to show. residuals: added to the skips,
        in the order in which the way down makes them (input convolution; then for each level, finest first, its blocks
        and its downsampling), and last to the middle's output; None = those of the condition's mask, if it has one.
        head: which output; None = the first.
        """
        self._check_input(x)
        x = x.to(self.down.input.weight.dtype)
        index = self._head_index(head)
        embedding = self._embed(x.shape[0], time, condition, index)
        tokens = self._tokens(x.shape[0], condition)
        if residuals is None:
            residuals = self._residuals(x, embedding, tokens, condition)
        skips = self.down(x, embedding, tokens, self._drawing(x, condition))
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

    def _embed(self, batch: int, time: Tensor, condition: Condition, head: int) -> Tensor:
        """Embedding of the head's time and of the vector, (B, time_width), with the SiLU every block begins with."""
        embedder = self.time if head == 0 else self.head_times[head - 1]
        embedding: Tensor = embedder(time.reshape(-1).expand(batch))
        if self.vector is not None:
            embedding = embedding + self.vector(condition.vector, condition.present, batch)
        elif condition.vector is not None:
            raise ConfigError("a condition vector was given to a network without one; train it with vector_size > 0")
        return F.silu(embedding)

    def _drawing(self, x: Tensor, condition: Condition) -> Tensor | None:
        """The vector drawn onto the grid of x, (B, width, *S), where the network draws it."""
        if self.vector_map is None or condition.vector is None:
            return None
        drawing: Tensor = self.vector_map(condition.vector, condition.present, x.shape[2:])
        return drawing

    def _tokens(self, batch: int, condition: Condition) -> Tensor | None:
        """Tokens (B, L, context_width) with the null token where there is no condition."""
        tokens = condition.tokens
        if self.null_context is None:
            if tokens is not None:
                raise ConfigError(
                    "context tokens were given to a network without them; train it with context_width > 0"
                )
            return None
        if tokens is None:
            return self.null_context.expand(batch, -1, -1)
        tokens = tokens.to(self.null_context.dtype)
        if condition.present is None:
            return tokens
        # Attention to L copies of one token equals attention to that token alone.
        return torch.where(condition.present[:, None, None], tokens, self.null_context)

    def _residuals(
        self, x: Tensor, embedding: Tensor, tokens: Tensor | None, condition: Condition
    ) -> Sequence[Tensor] | None:
        """What the side network makes of the mask, and nothing where there is no condition."""
        if condition.mask is None:
            return None
        if self.side is None:
            raise ConfigError("a mask was given to a network without a side network; train one that takes masks")
        residuals: Sequence[Tensor] = self.side(x, embedding, tokens, condition.mask.to(x.dtype))
        if condition.present is None:
            return residuals
        return [residual * condition.present.view(-1, *[1] * (residual.ndim - 1)) for residual in residuals]

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
