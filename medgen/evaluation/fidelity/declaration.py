"""What fidelity needs, and its options."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import Options, option
from medgen.evaluation.declaration import Metric, Need


class FidelityOptions(Options, frozen=True):
    """How generated images are compared with real ones."""

    by: Annotated[
        tuple[str, ...],
        option(
            "Also measure fidelity by modality, label, split or a vector field, within each group.",
            metavar="FIELD,...",
            group="Fidelity",
            default="modality, where there are several",
        ),
    ] = ()
    neighbours: Annotated[int, Meta(ge=1)] = 5
    """Rank of the neighbour whose distance is an image's radius, for precision, recall, density and coverage."""
    subsets: Annotated[int, Meta(ge=2)] = 100
    """Subsets over which the kernel distance is averaged."""
    subset_size: Annotated[int, Meta(ge=2)] = 1000
    """Images per subset and side; at most half of the smaller side is used."""


FIDELITY = Metric(
    "fidelity",
    "Fidelity is the distance of the images from those of --reference in feature space, next to the distance of real "
    "images from each other.",
    (Need(lambda inputs: inputs.reference is not None, "needs real images: give --reference SET"),),
    ("reference",),
    FidelityOptions,
)
