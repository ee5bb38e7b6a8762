"""Options of evaluate: a table for each metric that has any."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from medgen.config import Options, option
from medgen.imaging.cases.options import ReadingOptions


class ReconstructionOptions(Options, frozen=True):
    """How pairs of images are compared."""

    lpips: Annotated[str, option("LPIPS weights (safetensors), to measure LPIPS with.", metavar="FILE")] | None = None
    foreground: (
        Annotated[str, option("Compare only pixels above VALUE, or in the masks.", metavar="VALUE|mask")] | None
    ) = None
    """The value is in the unit of the images."""


class TorchScriptOptions(Options, frozen=True):
    """What a TorchScript given as --features takes."""

    range: tuple[float, float] = (-1.0, 1.0)
    """Its values for black and white; [0, 255] stands for whole numbers of 8 bits."""
    bands: Literal[1, 3] = 3
    """Gray images are repeated for 3, colours averaged for 1."""


class FidelityOptions(Options, frozen=True):
    """How generated images are held against real ones."""

    by: Annotated[
        tuple[str, ...],
        option(
            "Fidelity also by modality, label, split or a vector field, each group against its own kind.",
            metavar="FIELD,...",
        ),
    ] = ()
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
    false_positive_rate: Annotated[
        float,
        option(
            "Share of the pixels of held-out normal images that an anomaly threshold marks.", metavar="F", gt=0, lt=1
        ),
    ] = 0.01
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

    metrics: (
        Annotated[
            tuple[str, ...],
            option(
                "Of reconstruction, fidelity, memorization, conditioning, interpolation, anomaly.",
                metavar="A,B,...",
                default="all that the inputs allow",
            ),
        ]
        | None
    ) = None
    features: Annotated[
        str,
        option(
            "Image features: builtin, weights of Inception v3 (.safetensors), a TorchScript (.pt) or a VAE.",
            metavar="NAME|FILE",
        ),
    ] = "builtin"
    reconstruction: ReconstructionOptions = ReconstructionOptions()
    fidelity: FidelityOptions = FidelityOptions()
    memorization: MemorizationOptions = MemorizationOptions()
    torchscript: TorchScriptOptions = TorchScriptOptions()
    interpolation: InterpolationOptions = InterpolationOptions()
    anomaly: AnomalyEvaluationOptions = AnomalyEvaluationOptions()
    pair_by: Annotated[
        str,
        option(
            "Which cases belong together: those of one case id, patient or path, or of a row (columns set, reference, "
            "thick).",
            metavar="case|patient|path|FILE.csv",
            default="case, else frame of reference",
        ),
    ] = ""
    reading: ReadingOptions = ReadingOptions()
    """Of images from files; what is left open is as in the sets beside them."""
    seed: Annotated[int, option("Seed of everything random.", ge=0)] = 0
