"""Options of align: those of every method, and those of each."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import option
from medgen.diffusion.options import SamplerName, SamplingOptions
from medgen.errors import ConfigError
from medgen.nets.options import LoraConfig
from medgen.training.loop.options import TRAINING, Count, LoopOptions, Share, Size, TrainingOptions, Weight

ALIGNMENT = "Alignment"
"""Heading of the options below in the help."""


Part = Annotated[float, Meta(ge=0, le=1)]


class AlignLoop(LoopOptions, frozen=True):
    """Few, careful updates; each is made of new images."""

    steps: Annotated[int, option("Updates of the weights.", group=TRAINING, ge=1)] = 100
    batch_size: Annotated[int, option("Images drawn at once, in each process.", group=TRAINING, ge=1)] = 96
    learning_rate: Annotated[float, option("Learning rate.", metavar="R", group=TRAINING, gt=0)] = 3e-5
    """Ten times as much for an adapter."""
    warmup: Size = 4
    weight_decay: Weight = 0.0
    ema: Share = 0.8
    """Decay of the moving average of the weights, which is what is checked and written; 0 = none."""
    validate_every: Annotated[int, Meta(ge=0)] = 0
    log_every: Count = 5


class AlignOptions(TrainingOptions, frozen=True, tag_field="method"):
    """Options that every method has; its name is the tag."""

    loop: AlignLoop = AlignLoop()
    lora: LoraConfig | None = None
    """Train an adapter of the model, not the model itself; none = all weights of the model."""
    group: Annotated[int, option("Images of each condition, compared with each other.", group=ALIGNMENT, ge=2)] = 12
    sampler: Annotated[SamplerName, option("How each step of drawing an image is computed.", group=ALIGNMENT)] = "unipc"
    sampling_steps: Annotated[int, option("Steps from noise to data for each image drawn.", group=ALIGNMENT, ge=2)] = 6
    noise_levels: Count = 2
    """Noise levels at which each image is learned from in an update; of ddpo, steps of its chain."""
    noise_range: tuple[Part, Part] = (0.0, 1.0)
    """Least and greatest of these levels, as shares of the way from data to noise; ddpo has those of its chain. What is
    decided early is the whole image, late the fine grain: between them lies how clearly a finding shows."""
    kl: Annotated[
        float, option("Weight of the squared distance from the old model's predictions.", group=ALIGNMENT, ge=0)
    ] = 1e-4
    rehearsal: Annotated[
        float, option("Weight of ordinary training on the reference's training images.", group=ALIGNMENT, ge=0)
    ] = 1.0
    max_rise: Annotated[
        float,
        option("Keep no weights whose Frechet distance has risen by more than this share.", group=ALIGNMENT, ge=0),
    ] = 0.1
    weak: Annotated[bool, option("Follow a selector even if its scores mean nothing.", group=ALIGNMENT)] = False
    verify: Annotated[bool, option("Measure at each check how many images show what was asked.", group=ALIGNMENT)] = (
        False
    )
    check_every: Count = 10
    """Updates between measurements of the Frechet distance; none in the warm-up. Two beyond the bound in a row
    end the alignment."""
    check_images: Annotated[int, Meta(ge=2)] = 192
    """Images that are drawn for each of them."""

    def __post_init__(self) -> None:
        least, most = self.noise_range
        if least >= most:
            raise ConfigError(f"noise_range = {least:g}, {most:g}: the first must lie below the second")
        if self.loop.batch_size % self.group:
            raise ConfigError(
                f"loop.batch_size = {self.loop.batch_size} does not hold whole groups of {self.group}; give a multiple"
            )
        if self.loop.sharded:
            raise ConfigError("loop.sharded: align keeps whole copies of the weights; leave it out")

    @property
    def drawing(self) -> SamplingOptions:
        """How images are drawn."""
        return SamplingOptions(sampler=self.sampler, steps=self.sampling_steps)


class NFTOptions(AlignOptions, frozen=True, tag="nft"):
    """Towards good images and away from bad ones, drawn by any sampler (DiffusionNFT)."""

    strength: Annotated[float, Meta(gt=0)] = 1.0
    """How far the positive and the negative policy lie from the old one (beta): below 1 for several rewards at odds."""


class RWROptions(AlignOptions, frozen=True, tag="rwr"):
    """Ordinary training in which better images count more (reward-weighted regression)."""

    temperature: Annotated[float, Meta(gt=0)] = 1.0
    """Advantage, in standard deviations, that makes an image count e times as much."""


class DPOOptions(AlignOptions, frozen=True, tag="dpo"):
    """In pairs of images, make the better one likelier than the other (Diffusion-DPO)."""

    beta: Annotated[float, Meta(gt=0)] = 2000.0
    """How soon a preference counts as met."""
    guard: Weight = 5.0
    """Weight against making winners less likely than the reference model does."""


class DDPOOptions(AlignOptions, frozen=True, tag="ddpo"):
    """Make the better of the steps of a sampler likelier (policy gradient, DDPO)."""

    clip: Annotated[float, Meta(gt=0)] = 1e-4
    """How far the ratio of likelihoods of a step may move, in one update."""

    @property
    def drawing(self) -> SamplingOptions:
        """Ancestral sampling, the steps of which are draws from Gaussians."""
        return SamplingOptions(sampler="ddim", eta=1.0, steps=self.sampling_steps)


ALIGN_OPTIONS: tuple[type[AlignOptions], ...] = (NFTOptions, RWROptions, DPOOptions, DDPOOptions)
"""Those of every method; the first is the default."""
