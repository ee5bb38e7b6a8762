"""Options of train-diffusion: those of every learner, and those of each."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from medgen.config import option
from medgen.diffusion.options import Objective, ScheduleConfig, check
from medgen.errors import ConfigError
from medgen.nets.options import Hint, LoraConfig, LoraPart, UNetConfig
from medgen.prompts.variation import PromptVariation
from medgen.training.data.options import Balance, VolumeOptions
from medgen.training.learners.normalizer_options import NormalizerLosses
from medgen.training.learners.siamese_options import SiameseLosses
from medgen.training.loop.options import TrainingOptions

DROPOUT = option(
    "Share of samples trained without their condition; guidance needs more than 0.", metavar="P", ge=0, le=1
)
SEARCH = option("End with a search for the model's best guidance scale.")
PARTS = option(
    "Train only these parts of --init: attention, cross-attention, middle-attention, output.",
    flag="--train-parts",
    metavar="PART,...",
)
THROUGH = option(
    "The VAE, for learners that need one; for the denoiser it decodes the pictures of --sample-every.", metavar="FILE"
)


class TrainDiffusionOptions(TrainingOptions, frozen=True, tag_field="learner"):
    """Options that every learner of train-diffusion has; its name is the tag."""

    network: UNetConfig = UNetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    objective: Annotated[Objective, option("What the network predicts.")] = "eps"
    min_snr_gamma: Annotated[float, Meta(gt=0)] | None = None
    """Limit of the signal-to-noise ratio in the loss weights; none = all timesteps count equally."""
    init: (
        Annotated[
            str,
            option(
                "Start from this model of the same kind and shape, or from a Stable Diffusion folder.",
                metavar="MODEL",
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        check(self.objective, self.schedule)


class SliceDiffusionOptions(TrainDiffusionOptions, frozen=True):
    """Options that learners of slices have."""

    balance: Balance | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network.dims != 2:
            raise ConfigError(
                f"network.dims = {self.network.dims}: the {self.__struct_config__.tag} works on slices; set it to "
                "2, or take a preset of slices"
            )


class DenoiserOptions(SliceDiffusionOptions, frozen=True, tag="denoiser"):
    """To denoise images or latents, under their conditions if there are any."""

    lora: LoraConfig | None = None
    """Train an adapter of --init, not the network itself; none = train the network."""
    parts: Annotated[tuple[LoraPart, ...], PARTS, Meta(min_length=1)] = ("all",)
    vae: Annotated[str, THROUGH] | None = None
    """Of the pictures of `loop.sample_every`; the training does not use it."""
    prompts: PromptVariation | None = None
    """Vary the texts in training; none = show each as it is."""
    condition_dropout: Annotated[float, DROPOUT] = 0.3
    text_encoder: (
        Annotated[
            str,
            option(
                "Read texts with this transformers encoder (BERT's family, CLIP): a folder or a name on the hub.",
                metavar="PLACE",
                default="one trained along",
            ),
        ]
        | None
    ) = None
    text_tuning: Annotated[
        Literal["frozen", "lora", "all"],
        option("What is trained of that encoder: nothing, low-rank changes to its layers (LoRA), or all of it."),
    ] = "frozen"
    text_length: Annotated[int, Meta(ge=4)] = 77
    """Pieces of a text that it reads at most, with its marks."""
    search_guidance: Annotated[bool, SEARCH] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora and "all" not in self.parts:
            raise ConfigError("--lora and --train-parts both say what is trained; give one")
        if self.text_tuning != "frozen" and self.text_encoder is None:
            raise ConfigError("--text-tuning says how the encoder of --text-encoder is trained; give that")
        if self.text_tuning != "frozen" and self.lora:
            raise ConfigError("--text-tuning trains the network along, and --lora an adapter alone; give one")


class InterpolatorOptions(TrainDiffusionOptions, frozen=True, tag="interpolator"):
    """To fill in what lies between thick slices."""

    lora: LoraConfig | None = None
    vae: Annotated[str, THROUGH] | None = None
    volumes: VolumeOptions = VolumeOptions()
    """Training pairs."""


class NormalizerOptions(SliceDiffusionOptions, frozen=True, tag="normalizer"):
    """To make images normal."""

    lora: LoraConfig | None = None
    vae: Annotated[str, THROUGH] | None = None
    normalizer: NormalizerLosses = NormalizerLosses()


class SiameseOptions(SliceDiffusionOptions, frozen=True, tag="siamese"):
    """To denoise under masks, taught by a second branch that sees the image."""

    vae: Annotated[str, THROUGH] | None = None
    condition_dropout: Annotated[float, DROPOUT] = 0.1
    search_guidance: Annotated[bool, SEARCH] = True
    trunk: Literal["frozen", "decoder", "all"] = "all"
    """Which part of the trunk is trained beside the side network: nothing, its way up and output, or all of it."""
    hint: Hint = "sum"
    """Input of the image branch beside the mask's residuals: the image, or image and mask as channels."""
    hint_width: Annotated[int, Meta(ge=1)] = 16
    """Channels of the mask's finest features; they double once, and again at each halving to the network's size."""
    lesion_weight: Annotated[float, Meta(ge=1)] = 1.0
    """Loss weight of a position inside the mask, relative to 1 outside; for small lesions."""
    flip: bool = False
    """Mirror image and mask at random, left and right."""
    losses: SiameseLosses = SiameseLosses()


LEARNER_OPTIONS: tuple[type[TrainDiffusionOptions], ...] = (
    DenoiserOptions,
    InterpolatorOptions,
    NormalizerOptions,
    SiameseOptions,
)
"""Those of every learner; the first is the default."""
