"""What the agreement of images with their texts needs, and its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from medgen.config import Options, option
from medgen.evaluation.declaration import Metric, Need
from medgen.evaluation.segmentation.needs import generated

if TYPE_CHECKING:
    from medgen.evaluation.inputs import Inputs


class ProbeOptions(Options, frozen=True):
    """The probe that sees in images what texts say, and its training."""

    side: Annotated[int, Meta(ge=16, le=512)] = 64
    """Longest side in pixels at which the probe sees images; larger ones are averaged down to it."""
    width: Annotated[int, Meta(ge=4, multiple_of=4)] = 16
    """Channels of its finest level."""
    steps: Annotated[int, Meta(ge=10)] = 1000
    batch_size: Annotated[int, Meta(ge=1)] = 32
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-2
    """The highest rate; it rises over a tenth of the steps and then falls to 0."""
    held_out: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    """Share of the reference's cases that the probe does not learn from and is tried on."""


class AgreementOptions(ProbeOptions, frozen=True):
    """How images are compared with their texts."""

    clip: Annotated[
        str,
        option(
            "A model of images and texts, such as CLIP: its folder, as transformers saves it.",
            metavar="FOLDER",
            group="Agreement",
            default="none",
        ),
    ] = ""


def _has_text(inputs: Inputs) -> bool:
    return inputs.stored.header.kind == "image" and inputs.stored.has("text")


AGREEMENT = Metric(
    "agreement",
    "Agreement asks whether each image shows what its text says. A small classifier learns modality, organ, side, "
    "finding, size and number (or, from texts without these fields, frequent words) from the images and texts of "
    "--reference. It then judges the images, and held-out real images for comparison. --clip adds the similarity of "
    "image and text in a joint model of both. Agreement also reports how alike the images of one text are.",
    (Need(_has_text, "needs images with texts: generate them with --prompt or --prompts"),),
    ("reference", "training"),
    AgreementOptions,
    files=("clip",),
    unasked=generated,
)
