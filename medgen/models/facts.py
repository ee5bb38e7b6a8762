"""What a model file must say about itself besides weights and network configuration: one struct per kind.

The training commands write these (`save_model(..., facts=msgspec.to_builtins(VAEFacts(...)))`), and the inference
commands read them back (`VAEFacts.read(model.facts, where)`), so the key names are defined here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import msgspec
import numpy as np

from medgen.artifacts.latent_space import LatentSpace, Scale, Shift
from medgen.artifacts.schema import Intensity, SetHeader
from medgen.errors import DataError

Range = tuple[float, float]
"""Least and greatest."""


StoredType = Literal["int16", "uint8", "uint16", "float32"]


TRUST_FLOOR = 0.2
"""Held-out correlation below which a selector says nothing."""


class Facts(msgspec.Struct, frozen=True):
    """Base: unknown keys are allowed, so that a later version can add facts that older commands need not know."""

    @classmethod
    def read(cls, facts: Mapping[str, Any], where: str) -> Self:
        """Read the facts of a loaded model; DataError naming `where` and the fact that is missing or wrong."""
        try:
            return msgspec.convert(facts, cls)
        except msgspec.ValidationError as error:
            reason = str(error).replace("`", "'").replace("$.", "")
            raise DataError(f"{where}: the model's facts are unusable ({reason}); train it again") from None


class VAEFacts(Facts, frozen=True):
    """Facts of kind "vae"; one from elsewhere takes images of any window."""

    intensity: Intensity | None  # of the image set it was trained on: its window is what [-1, 1] means
    latent_scale: Scale
    latent_shift: Shift
    stored_dtype: StoredType | None = "int16"  # of the images, hence of decoded ones

    @property
    def latent_space(self) -> LatentSpace:
        """How its latents are scaled and shifted for networks."""
        return LatentSpace(self.latent_scale, self.latent_shift)


class LatentFacts(Facts, frozen=True, kw_only=True):
    """Facts that every model of latents has about them; the defaults are those of a model of images."""

    vae_digest: str = ""
    latent_scale: Scale = 1.0
    latent_shift: Shift = 0.0

    @property
    def latent_space(self) -> LatentSpace:
        """How latents are scaled and shifted for the network."""
        return LatentSpace(self.latent_scale, self.latent_shift)


class TextEncoderFacts(msgspec.Struct, frozen=True):
    """The encoder of texts that a model began from, where that was not its own."""

    name: str
    digest: str  # of its weights and tokenizer
    length: int  # pieces of a text that are read
    tokenizer: str = ""  # as JSON, where the encoder was trained along and is part of the model


class DenoiserFacts(LatentFacts, frozen=True):
    """Facts of kind "denoiser". `shape` is (channels, height, width) of what it denoises."""

    space: Literal["latent", "image"]
    shape: tuple[int, ...]
    schedule: dict[str, Any]  # the fields of diffusion's ScheduleConfig
    objective: str  # eps, x0, v or flow
    intensity: Intensity
    vector_fields: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()  # of the values 0 (background), 1, ... of masks; empty if it takes none
    vocabulary: tuple[str, ...] = ()  # pieces of words by their number; empty if it reads no text
    merges: tuple[str, ...] = ()  # pairs of pieces to join, the first first; empty if pieces are not of bytes
    padding: str = ""  # the piece of bytes that fills up a text
    words: tuple[str, ...] = ()  # that the captions of two cases or more had; empty if not known
    modalities: tuple[str, ...] = ()  # those numbered 1, 2, ...; 0 is "not said"
    text_encoder: TextEncoderFacts | None = None  # from outside
    spacing: tuple[float, float, float] | None = None  # (z, y, x) mm, if all cases of the training set have the same
    stored_dtype: StoredType = "int16"  # image space only; else the VAE says it
    guidance: float | None = None  # the scale that was best in a search at the end of its training, if there was one
    guidance_range: Range | None = None  # of the scales that were tried
    vector_range: tuple[Range, ...] = ()  # of each vector field in training
    spacing_range: tuple[Range, Range, Range] | None = None  # of the training cases, (z, y, x) mm


class AdapterFacts(Facts, frozen=True):
    """Facts of kind "adapter": the model it belongs to, and the facts of that model with the adapter in it."""

    base_kind: str
    base_digest: str
    model: dict[str, Any]
    four_bit: tuple[str, ...] = ()  # layers whose weights were rounded to 4 bits in training, and are to be with it


class InterpolatorFacts(LatentFacts, frozen=True):
    """Facts of kind "interpolator": the VAE of its latents, its diffusion, and the lengths (mm) it was trained on."""

    schedule: dict[str, Any]  # as in DenoiserFacts, like the next two
    objective: str
    intensity: Intensity
    residual_std: float  # its prediction is multiplied by this, and added to the latents of the first guess
    depth: int  # thin slices in a window
    plane: tuple[int, int]  # height and width of the slices, in pixels
    thick_spacing: tuple[float, float]  # from, to
    thin_spacing: tuple[float, float]


def type_for(intensity: Intensity) -> StoredType:
    """The smallest type that holds the stored values of all of an image's window."""
    low, high = ((edge - intensity.offset) / intensity.scale for edge in intensity.window)
    types: tuple[StoredType, ...] = ("uint8", "int16", "uint16")
    fits = (name for name in types if np.iinfo(name).min <= low and high <= np.iinfo(name).max)
    return next(fits, "float32")


class Trust(Facts, frozen=True):
    """How well a selector's scores follow ratings of cases that it had not seen: a 95 % interval of the correlation.

    Spearman's with the raters' mean if it learned from ratings; from comparisons, the share that it orders rightly
    less the share that it orders wrongly (Goodman and Kruskal's gamma). None where it is not defined.
    """

    answers: int
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def says(self) -> bool:
        """Whether the correlation is above TRUST_FLOOR, and surely above 0."""
        return self.value is not None and self.value >= TRUST_FLOOR and (self.low or 0.0) > 0.0

    def __str__(self) -> str:
        if self.value is None:
            return f"no correlation from {self.answers} answers"
        return f"correlation {self.value:.2f} ({self.low:.2f} to {self.high:.2f}) from {self.answers} answers"


class SelectorFacts(Facts, frozen=True, kw_only=True):
    """Facts of kind "selector": the images it judges, by which features, and what its scores are worth."""

    shape: tuple[int, int, int]  # (C, H, W) of the images
    intensity: Intensity
    aspects: tuple[str, ...]  # in the order of its scores
    combined: tuple[str, ...]  # those whose mean is the score
    trust: dict[str, Trust]  # by aspect
    overall: Trust  # of the score
    parts: tuple[str, ...] = ()  # of the request that it looks at: vector, mask, text, modality
    vector_fields: tuple[str, ...] = ()
    place: bool = False  # whether it looks at the place that the vector names
    mask_names: tuple[str, ...] = ()
    features: str = ""  # digest of the built-in features, if it judges by these
    vae_digest: str = ""  # else of the VAE

    @property
    def says(self) -> bool:
        """Whether the score follows ratings of cases that it had not seen."""
        return self.overall.says


def check_images(images: SetHeader, command: str) -> Intensity:
    """The intensity of the set that `command` reads; DataError unless it holds images and states it."""
    if images.kind != "image":
        raise DataError(f"the input is a set of kind '{images.kind}'; {command} needs images")
    return _intensity(images)


def check_intensity(images: SetHeader, facts: VAEFacts | DenoiserFacts | NormalizerFacts) -> Intensity:
    """The intensity of an image set; DataError if its window or unit is not that of the model's images."""
    ours, theirs = _intensity(images), facts.intensity
    if theirs is not None and (ours.unit, ours.window) != (theirs.unit, theirs.window):
        raise DataError(
            f"the set has window {_window(ours)} and the model was trained on {_window(theirs)}; "
            "preprocess with the model's window"
        )
    return ours


def _intensity(images: SetHeader) -> Intensity:
    if images.intensity is None:
        raise DataError("the set does not say what its image values mean (no intensity); preprocess it again")
    return images.intensity


def _window(intensity: Intensity) -> str:
    low, high = intensity.window
    return f"[{low:g}, {high:g}] {intensity.unit}"


class NormalizerFacts(LatentFacts, frozen=True):
    """Facts of kind "normalizer": a network with the heads "diffusion" and "flow", each on a path of its own."""

    space: Literal["latent", "image"]
    shape: tuple[int, ...]
    schedule: dict[str, Any]  # of the head "diffusion", the fields of diffusion's ScheduleConfig
    objective: str  # of the head "diffusion"; the other one predicts the flow
    flow_schedule: dict[str, Any]
    intensity: Intensity
    spacing: tuple[float, float, float] | None = None
    stored_dtype: StoredType = "int16"
