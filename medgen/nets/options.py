"""Options for the shapes of networks and how they compute: light enough for command files to import."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from medgen.config import Options, option
from medgen.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16", "float16"]
AttentionKind = Literal["none", "linear", "full", "transformer"]
"""transformer: full attention, attention to the tokens and an MLP in one block, as in Stable Diffusion."""
Hint = Literal["sum", "concat"]
"""Input of an image branch: the image alone, or image and mask as channels of one hint. Either way, its residuals are
added to those of the mask."""
LoraPart = Literal["attention", "cross-attention", "middle-attention", "output", "text", "all"]
ADAPTER = "Adapter"
"""Heading of an adapter's options in the help of commands."""
Fusion = Literal["product", "concat"]
Count = Annotated[int, Meta(ge=1)]
Size = Annotated[int, Meta(ge=0)]


class LevelAttention(NamedTuple):
    """What the units of a level attend to."""

    attention: AttentionKind
    """Their own positions."""
    cross: bool
    """The tokens of the context."""
    head_width: int
    """Channels of one head."""


class SideConfig(Options, frozen=True):
    """Shape of the side network, through which a UNet sees a mask."""

    classes: Count = 1
    """Channels of the mask: its classes but the background."""
    factor: Literal[1, 2, 4, 8] = 1
    """Side of the mask / side of the UNet's input."""
    hint_width: Count = 16
    """Channels of the mask's features at its own resolution; they double before each halving."""


class TextConfig(Options, frozen=True):
    """Shape of the built-in text encoder; its states are as wide as the context tokens."""

    vocabulary: Annotated[int, Meta(ge=64)] = 4096
    """Pieces of words that it knows; in training, the most that the captions may give."""
    length: Annotated[int, Meta(ge=3)] = 77
    """Pieces of a text that it reads, its first and last mark included."""
    layers: Count = 4
    head_width: Count = 64
    """Channels of one attention head."""
    causal: bool = False
    """A piece sees those before it only, as in CLIP."""
    direct: bool = False
    """Each piece also adds an embedding of its own to that of the time: what one word says, such as a side, is then not
    thinned by the mean over the text."""
    activation: Literal["gelu", "quick_gelu"] = "gelu"


class OutsideTextConfig(Options, frozen=True):
    """A text encoder of the library transformers."""

    settings: dict[str, Any]
    """Its configuration there."""
    width: Count
    """Of its states."""
    length: Count
    """Pieces of a text that it reads, with its marks."""
    padding: Size = 0
    """Id of the padding of its tokenizer."""


class UNetConfig(Options, frozen=True):
    """Shape of a UNet; n widths mean n levels and a downsampling factor of 2^(n-1)."""

    dims: Literal[2, 3] = 2
    in_channels: Count = 8
    out_channels: Count = 8
    widths: Annotated[tuple[Count, ...], Meta(min_length=1)] = (128, 256, 512)
    blocks: Count = 2
    """Residual blocks per level on the way down; one more on the way up."""
    attention: tuple[AttentionKind, ...] = ("none", "linear", "full")
    """Self-attention of each level, finest first."""
    up_attention: tuple[AttentionKind, ...] | None = None
    """The same for the way up; none = as on the way down."""
    mid_attention: AttentionKind = "full"
    head_width: Count | tuple[Count, ...] = 32
    """Channels of one attention head; a list: of each level, finest first."""
    time_width: Count = 1024
    """Width of the embedding of time, vector and pooled text."""
    modulation: Literal["scale-shift", "shift"] = "scale-shift"
    """How the embedding acts in a residual block: it scales and shifts what is normalized (Dhariwal & Nichol 2021), or
    is added before (Ho et al. 2020)."""
    groups: Count = 32
    norm_eps: Annotated[float, Meta(gt=0)] = 1e-5
    vector_size: Size = 0
    """Numbers in the condition vector; 0 = no vector condition."""
    vector_hidden: Count = 256
    vector_map: Annotated[int, Meta(ge=0, le=12)] = 0
    """Octaves of waves that also draw the vector onto the grid, for vectors that name positions; 0 = not drawn."""
    context_width: Size = 0
    """Width of the context tokens for cross-attention; 0 = none."""
    cross_attention: tuple[bool, ...] | None = None
    """Which levels attend to the tokens, finest first; none = all. The middle always does."""
    null_length: Size = 0
    """Tokens that a text encoder outside gives for the empty text, where these are the null condition; 0 = one token,
    which is learned."""
    pooled_width: Size = 0
    """Width of the vector that sums up a text and is added to the embedding of time; 0 = none."""
    text: TextConfig | None = None
    """The built-in text encoder, trained along; none = tokens come from outside, if any do."""
    outside_text: OutsideTextConfig | None = None
    """An encoder of transformers in its place, trained along; train-diffusion --text-encoder fills it in."""
    modalities: Size = 0
    """Modalities with an embedding, which is fused with the text; 0 = the UNet is told no modality."""
    fusion: Fusion = "product"
    """How the embedding of a modality is fused with the states of a text."""
    side: SideConfig | None = None
    """The side network for masks; none = the UNet takes no mask."""
    gated_skips: bool = False
    """Weight each position of a skip by what the way up sees there."""
    feature_pyramid: bool = False
    """The outputs see the features of all levels on the way up, not of the finest alone."""
    heads: Annotated[tuple[str, ...], Meta(min_length=1)] = ("output",)
    """Names of the outputs, each with out_channels; the first is the default."""
    positions: bool = False
    """The network is told where each position lies, for images that are framed alike and conditions that name sides."""
    down_depth: bool = False
    """3-D only: halve depth between levels too."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        check_groups(self.groups, self.widths)
        for name in ("attention", "up_attention", "cross_attention", "head_width"):
            levels = getattr(self, name)
            if isinstance(levels, tuple) and len(levels) != len(self.widths):
                raise ConfigError(
                    f"{name} names {len(levels)} levels but widths names {len(self.widths)}: give one a level"
                )
        if self.cross_attention is not None and not self.context_width:
            raise ConfigError("cross_attention needs context_width > 0: without tokens there is nothing to attend to")
        if self.null_length and not self.context_width:
            raise ConfigError("null_length needs context_width > 0: without tokens there are none of the empty text")
        if len(set(self.heads)) != len(self.heads):
            raise ConfigError(f"heads {', '.join(self.heads)} are not distinct; give each output a name of its own")
        if self.down_depth and self.dims == 2:
            raise ConfigError("down_depth needs dims = 3: a 2-D image has no depth")
        if self.side and self.dims == 3:
            raise ConfigError("side needs dims = 2: masks are of slices")
        if not self.context_width and (self.text or self.modalities or self.pooled_width):
            told = "text" if self.text else "modalities" if self.modalities else "pooled_width"
            raise ConfigError(f"{told} needs context_width, the width of the tokens of a text; set it above 0")
        if self.text:
            count_heads(self.context_width, self.text.head_width)
        levels = [*self.levels_down, *self.levels_up, self.middle]
        for width, level in zip([*self.widths, *self.widths, self.widths[-1]], levels, strict=True):
            if level.attention != "none" or level.cross:
                count_heads(width, level.head_width)

    @property
    def levels_down(self) -> list[LevelAttention]:
        """What attends on the way down, finest level first."""
        return self._levels(self.attention)

    @property
    def levels_up(self) -> list[LevelAttention]:
        """What attends on the way up, finest level first."""
        return self._levels(self.attention if self.up_attention is None else self.up_attention)

    @property
    def middle(self) -> LevelAttention:
        """What attends in the middle."""
        return LevelAttention(self.mid_attention, self.context_width > 0, self._levels(self.attention)[-1].head_width)

    def _levels(self, kinds: tuple[AttentionKind, ...]) -> list[LevelAttention]:
        count, tokens = len(self.widths), self.context_width > 0
        crossing = self.cross_attention or (True,) * count
        heads = self.head_width if isinstance(self.head_width, tuple) else (self.head_width,) * count
        levels = zip(kinds, crossing, heads, strict=True)
        return [LevelAttention(kind, tokens and cross, head) for kind, cross, head in levels]

    @property
    def factor(self) -> int:
        """Input side / side of the coarsest level."""
        return int(2 ** (len(self.widths) - 1))


class LoraConfig(Options, frozen=True):
    """An adapter: which layers it changes, and by how much it can."""

    parts: Annotated[
        tuple[LoraPart, ...],
        option(
            "Keep the model frozen, and train an adapter (LoRA) on these parts of it: "
            "attention, cross-attention, middle-attention, output, text or all.",
            flag="--lora",
            metavar="PART,...",
            group=ADAPTER,
            default="none, or attention with another option of an adapter",
        ),
        Meta(min_length=1),
    ] = ("attention",)
    rank: Annotated[int, option("Rank of the change to each layer.", flag="--lora-rank", group=ADAPTER, ge=1)] = 8
    alpha: (
        Annotated[
            float,
            option(
                "Each change is scaled by alpha / rank.", flag="--lora-alpha", group=ADAPTER, default="the rank", gt=0
            ),
        ]
        | None
    ) = None
    four_bit: Annotated[
        bool,
        option(
            "Hold the frozen weights in 4 bits (QLoRA): less memory, slower steps.",
            flag="--lora-four-bit",
            group=ADAPTER,
        ),
    ] = False

    @property
    def scale(self) -> float:
        """Factor of a change, alpha / rank."""
        return (self.alpha or self.rank) / self.rank


class VAEConfig(Options, frozen=True):
    """Shape of a VAE; n widths mean n levels and a downsampling factor of 2^(n-1) in plane."""

    in_channels: Count = 1
    out_channels: Count = 1
    latent_channels: Count = 8
    widths: Annotated[tuple[Count, ...], Meta(min_length=1)] = (64, 128, 256, 512)
    blocks: Count = 2
    """Residual units per level of the encoder; the decoder has one more."""
    groups: Count = 8
    norm_eps: Annotated[float, Meta(gt=0)] = 1e-6
    mid_attention: bool = False
    dims: Literal[2, 3] = 2
    """3: convolutions over depth too, strides (1, 2, 2), so that depth is kept."""
    quant_conv: bool = False
    """1x1 convolutions right before and after the latent, as Stable Diffusion 1 and 2 have."""

    def __post_init__(self) -> None:
        check_groups(self.groups, self.widths)
        if self.in_channels != self.out_channels:
            raise ConfigError(
                f"in_channels = {self.in_channels} and out_channels = {self.out_channels} differ; make them equal"
            )

    @property
    def factor(self) -> int:
        """Image side / latent side."""
        return int(2 ** (len(self.widths) - 1))


class DiscriminatorConfig(Options, frozen=True):
    """Shape of a patch discriminator; three layers see patches of 70 x 70 pixels."""

    in_channels: Count = 1
    width: Annotated[int, Meta(ge=8, multiple_of=8)] = 64
    layers: Count = 3


def check_groups(groups: int, widths: tuple[int, ...]) -> None:
    """ConfigError unless `groups` divides every width, as GroupNorm needs."""
    for width in widths:
        if width % groups:
            raise ConfigError(f"groups = {groups} does not divide width {width}; choose groups that divide every width")


def count_heads(width: int, head_width: int) -> int:
    """How many heads of `head_width` channels make up `width`; ConfigError if they do not."""
    if width % head_width:
        raise ConfigError(f"head_width = {head_width} does not divide width {width}; choose one that divides it")
    return width // head_width
