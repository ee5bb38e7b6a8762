"""Options of evaluate: a table for each metric that has any."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from medgen.config import Options


class ReconstructionOptions(Options, frozen=True):
    """How pairs of images are compared."""

    lpips: str | None = None
    """A safetensors file of LPIPS weights; without it LPIPS is not measured."""
    foreground: str | None = None
    """Only these pixels: those above a value in the unit of the images, or `mask` for those that the masks mark."""


class TorchScriptOptions(Options, frozen=True):
    """What a TorchScript given as --features takes."""

    range: tuple[float, float] = (-1.0, 1.0)
    """Its values for black and white; [0, 255] stands for whole numbers of 8 bits."""
    bands: Literal[1, 3] = 3
    """Gray images are repeated for 3, colours averaged for 1."""


class FidelityOptions(Options, frozen=True):
    """How generated images are held against real ones."""

    by: tuple[str, ...] = ()
    """Also in groups: of equal modality, label or split, or of like values of a vector field."""
    neighbours: Annotated[int, Meta(ge=1)] = 5
    """Rank of the neighbour whose distance is the reach of an image, for precision, recall, density and coverage."""
    subsets: Annotated[int, Meta(ge=2)] = 100
    """Subsets over which the kernel distance is averaged."""
    subset_size: Annotated[int, Meta(ge=2)] = 1000
    """Images a subset and side; at most half of the smaller side are taken."""


class InterpolationOptions(Options, frozen=True):
    """How thin slices are held against thick ones; lengths in mm."""

    profile: Literal["box", "gaussian"] = "box"
    """Shape of the thick slices' profile."""
    thickness: Annotated[float, Meta(gt=0)] | None = None
    """Of thick slices that do not tell theirs; none: as far as they are apart."""


class AnomalyEvaluationOptions(Options, frozen=True):
    """How anomaly maps and scores are held against the truth."""

    normal: str = "normal"
    """The label of normal images; of labels without names their number."""
    fit_split: Literal["train", "val", "test"] = "val"
    """Its normal images fit the threshold, where --reference gives no others."""
    false_positive_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    """Share of the pixels of held-out normal images that the threshold marks."""
    lesion_overlap: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """Share of a lesion's pixels that must be marked for it to be found."""


class MemorizationOptions(Options, frozen=True):
    """How copies of training images are looked for."""

    candidates: Annotated[int, Meta(ge=1)] = 8
    """Training cases, by each way of searching, whose most similar image is laid on the sample."""
    margin: Annotated[float, Meta(gt=0, le=1)] = 0.9
    """A copy lies below this share of the smallest distance that a held-out image has."""
    shift: Annotated[float, Meta(ge=0, le=0.25)] = 0.125
    """Shifts that are tried, up to this share of the side."""
    side: Annotated[int, Meta(ge=16)] = 64
    """Longest side in pixels at which images are laid on each other."""
    pairs: Annotated[int, Meta(ge=1)] = 12
    """Closest pairs that are shown."""


class EvaluateOptions(Options, frozen=True):
    """How sets are measured."""

    metrics: tuple[str, ...] | None = None
    """Names of the metrics; none = all that the inputs allow."""
    features: str = "builtin"
    """Extractor of image features: builtin, or a local file."""
    reconstruction: ReconstructionOptions = ReconstructionOptions()
    fidelity: FidelityOptions = FidelityOptions()
    memorization: MemorizationOptions = MemorizationOptions()
    torchscript: TorchScriptOptions = TorchScriptOptions()
    interpolation: InterpolationOptions = InterpolationOptions()
    anomaly: AnomalyEvaluationOptions = AnomalyEvaluationOptions()
    seed: Annotated[int, Meta(ge=0)] = 0
