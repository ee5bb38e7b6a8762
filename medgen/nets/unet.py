"""One UNet for 2-D and 3-D and for every condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.errors import ConfigError, DataError
from medgen.nets.attention import Context
from medgen.nets.blocks import convolution, zeroed
from medgen.nets.condition import NOTHING, Condition
from medgen.nets.embedders import PositionMap, TimeEmbedder, VectorEmbedder, VectorMap
from medgen.nets.options import UNetConfig
from medgen.nets.side.network import SideNetwork
from medgen.nets.text.encoder import TextEncoder, TextStates
from medgen.nets.text.modality import ModalityFusion
from medgen.nets.text.pretrained import OutsideEncoder
from medgen.nets.unet_trunk import DownPath, Middle, UpPath

__all__ = ["UNet", "UNetConfig"]


class Encoded(NamedTuple):
    """The state of a UNet after the way down and the middle, before the way up."""

    embedding: Tensor
    """Of the time, the vector and the pooled text, (B, time_width)."""
    tokens: Context | None
    """Of the text, with the null token where there is no condition."""
    present: Tensor | None
    """Whether the condition applies, (B,) bool; None = to all samples."""
    features: list[Tensor]
    """The skips, finest first, and the middle."""

    def repeated(self, times: int) -> Encoded:
        """The batch repeated `times` times, one after another."""

        def repeat(part: Tensor) -> Tensor:
            return part.repeat(times, *[1] * (part.ndim - 1))

        tokens = None if self.tokens is None else self.tokens.each(repeat)
        present = None if self.present is None else repeat(self.present)
        return Encoded(repeat(self.embedding), tokens, present, [repeat(feature) for feature in self.features])

    def where_present(self, residual: Tensor) -> Tensor:
        """A residual (B, C, *S), zero where there is no condition."""
        if self.present is None:
            return residual
        return residual * self.present.view(-1, *[1] * (residual.ndim - 1))


class UNet(nn.Module):
    """Network of a diffusion model: maps noisy input, time and conditions to a prediction of the same shape.

    The null condition ("no condition", for classifier-free guidance) is learned: an embedding each replaces the vector
    and the pooled text, and one token replaces the tokens, where the condition is not present. A mask acts through the
    side network, whose residuals are zero there.
    """

    null_context: Tensor | None

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
        self.text: OutsideEncoder | TextEncoder | None = None
        if config.outside_text:
            self.text = OutsideEncoder(config.outside_text)
        elif config.text:
            self.text = TextEncoder(config.text, config.context_width, config.pooled_width, config.time_width)
        self.modality = None
        if config.modalities:
            widths = (config.context_width, config.pooled_width)
            self.modality = ModalityFusion(config.modalities, widths, config.fusion)
        self.pooled = None
        if config.pooled_width:
            self.pooled = VectorEmbedder(config.pooled_width, config.time_width, config.time_width)
        if config.null_length:  # what an encoder gives is not learned
            self.register_buffer("null_context", torch.zeros(1, config.null_length, config.context_width))
            if self.text is not None:
                self.text.requires_grad_(False)
        elif config.context_width:
            self.null_context = nn.Parameter(torch.randn(1, 1, config.context_width) * 0.02)
        else:
            self.null_context = None
        # Heads may use different kinds of time (diffusion, flow), so each further head has its own time embedder.
        self.head_times = nn.ModuleList(TimeEmbedder(width, config.time_width) for _ in config.heads[1:])
        self.positions = PositionMap(width, config.dims) if config.positions else None
        self.middle_positions = PositionMap(config.widths[-1], config.dims) if config.positions else None
        self.down = DownPath(config)
        self.middle = Middle(config)
        self.side = SideNetwork(config, config.side) if config.side else None
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

        time: (B,) or one number, in [0, 1000). condition: what each sample should show. residuals: added to the skips,
        in the order in which the way down makes them (input convolution; then for each level, finest first, its blocks
        and its downsampling), and the last one to the middle's output; None = those of the condition's mask, if it has
        one. head: which output; None = the first.
        """
        seen = self.see(x, time, condition, head=head)
        if residuals is None:
            residuals = self._residuals(x, seen, condition)
        return self.answer(seen, residuals, head=head)

    def see(self, x: Tensor, time: Tensor, condition: Condition = NOTHING, *, head: str | None = None) -> Encoded:
        """The way down and the middle; arguments as in `forward`."""
        self._check_input(x)
        x = x.to(self.down.input.weight.dtype)
        condition = self._read(condition)
        embedding = self._embed(x.shape[0], time, condition, self._head_index(head))
        tokens = self._tokens(x.shape[0], condition)
        skips = self.down(x, embedding, tokens, self._drawing(x, condition))
        coarsest = skips[-1]
        if self.middle_positions is not None:
            coarsest = coarsest + self.middle_positions(coarsest.shape[2:])
        middle = self.middle(coarsest, embedding, tokens)
        return Encoded(embedding, tokens, condition.present, [*skips, middle])

    def answer(self, seen: Encoded, residuals: Sequence[Tensor] | None = None, *, head: str | None = None) -> Tensor:
        """The way up, with residuals as in `forward` where the condition is present: (B, out_channels, [D,] H, W)."""
        features = seen.features
        if residuals is not None:
            if len(residuals) != len(features):
                raise DataError(
                    f"{len(residuals)} residuals given, expected {len(features)}: one a skip and the middle"
                )
            features = [feature + seen.where_present(r) for feature, r in zip(features, residuals, strict=True)]
        h = self.up(features[-1], features[:-1], seen.embedding, seen.tokens)
        out: Tensor = self.outputs[self._head_index(head)](h)
        return out

    def _embed(self, batch: int, time: Tensor, condition: Condition, head: int) -> Tensor:
        """Embedding of time, vector and pooled text, (B, time_width), after the SiLU that every block needs."""
        embedder = self.time if head == 0 else self.head_times[head - 1]
        embedding: Tensor = embedder(time.reshape(-1).expand(batch))
        if self.vector is not None:
            embedding = embedding + self.vector(condition.vector, condition.present, batch)
        elif condition.vector is not None:
            raise ConfigError("a condition vector was given to a network without one; train it with vector_size > 0")
        if self.pooled is not None:
            embedding = embedding + self.pooled(condition.pooled, condition.present, batch)
        if condition.direct is not None:
            direct, present = condition.direct.to(embedding.dtype), condition.present
            embedding = embedding + (direct if present is None else direct * present[:, None])
        return F.silu(embedding)

    def _drawing(self, x: Tensor, condition: Condition) -> Tensor | None:
        """Positions and the vector drawn onto the grid of x, (B or 1, width, *S), if the network draws them."""
        drawing: Tensor | None = None if self.positions is None else self.positions(x.shape[2:])
        if self.vector_map is None or condition.vector is None:
            return drawing
        drawn: Tensor = self.vector_map(condition.vector, condition.present, x.shape[2:])
        return drawn if drawing is None else drawing + drawn

    def _read(self, condition: Condition) -> Condition:
        """The condition with the words of its text encoded, and its modality fused with them."""
        if condition.words is None and condition.modality is None:
            return condition
        if condition.words is not None:
            if self.text is None:
                raise ConfigError("words were given to a network without a text encoder; train it with a text table")
            states = self.text(condition.words, condition.token_mask)
        elif condition.tokens is not None:
            dtype, pooled = self.down.input.weight.dtype, condition.pooled
            states = TextStates(condition.tokens.to(dtype), None if pooled is None else pooled.to(dtype))
        else:
            raise ConfigError("a modality was given without a text to fuse it with; give both")
        if condition.modality is not None:
            if self.modality is None:
                raise ConfigError("a modality was given to a network without any; train it with modalities > 0")
            states = self.modality(states, condition.modality)
        tokens, pooled, direct = states
        return replace(condition, words=None, modality=None, tokens=tokens, pooled=pooled, direct=direct)

    def _tokens(self, batch: int, condition: Condition) -> Context | None:
        """Tokens (B, L, context_width) with the null token where there is no condition."""
        tokens, real = condition.tokens, condition.token_mask
        if self.null_context is None:
            if tokens is not None:
                raise ConfigError(
                    "context tokens were given to a network without them; train it with context_width > 0"
                )
            return None
        if tokens is None:
            return Context(self.null_context.expand(batch, -1, -1))
        if self.config.null_length not in (0, tokens.shape[1]):
            raise DataError(
                f"{tokens.shape[1]} tokens a text were given, expected {self.config.null_length}, as many as the empty "
                "text has; pad the texts to that length"
            )
        tokens = tokens.to(self.null_context.dtype)
        if condition.present is not None:
            # Attention to L copies of one token equals attention to that token alone.
            tokens = torch.where(condition.present[:, None, None], tokens, self.null_context)
            if real is not None and self.config.null_length:
                real = real | ~condition.present[:, None]
        return Context(tokens, real)

    def prepared(self, condition: Condition) -> Condition:
        """The condition prepared for many calls: work that is the same in every call is done once, here."""
        condition = self._read(condition)
        if condition.mask is None or self.side is None:
            return condition
        return replace(condition, mask=None, hint=self.side.features(condition.mask))

    def _residuals(self, x: Tensor, seen: Encoded, condition: Condition) -> list[Tensor] | None:
        """Residuals of the side network for the mask, or for the hint made from it; None without either."""
        if condition.mask is None and condition.hint is None:
            return None
        if self.side is None:
            raise ConfigError("a mask was given to a network without a side network; train one that takes masks")
        rows = _rows_asked(seen.present)
        if rows is None:
            return self._side_residuals(self.side, x, seen.embedding, seen.tokens, condition)
        tokens = None if seen.tokens is None else seen.tokens.each(lambda part: part[rows])
        asked = condition.of(rows)
        found = self._side_residuals(self.side, x[rows], seen.embedding[rows], tokens, asked)
        return [part.new_zeros(len(x), *part.shape[1:]).index_copy(0, rows, part) for part in found]

    @staticmethod
    def _side_residuals(
        side: SideNetwork, x: Tensor, embedding: Tensor, tokens: Context | None, condition: Condition
    ) -> list[Tensor]:
        if condition.hint is not None:
            return side.residuals(x, embedding, tokens, condition.hint)
        residuals: list[Tensor] = side(x, embedding, tokens, condition.mask)
        return residuals

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


def _rows_asked(present: Tensor | None) -> Tensor | None:
    """In inference, the rows of a batch that have a condition, padded with others to a multiple of 4.

    None = all of them. In a multiple of 4, a row's result has the same bits in any batch; see `models/trained.py`.
    """
    if present is None or torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return None
    count = -(-int(present.sum()) // 4) * 4
    return None if count >= len(present) else torch.argsort(~present, stable=True)[:count]
