"""What reconstruction needs, and its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from medgen.config import Options, option
from medgen.evaluation.declaration import Metric, Need

if TYPE_CHECKING:
    from medgen.evaluation.inputs import Inputs

GROUP = "Reconstruction"


class ReconstructionOptions(Options, frozen=True):
    """How pairs of images are compared."""

    lpips: (
        Annotated[str, option("LPIPS weights (safetensors), to measure LPIPS with.", metavar="FILE", group=GROUP)]
        | None
    ) = None
    foreground: (
        Annotated[str, option("Compare only pixels above VALUE, or in the masks.", metavar="VALUE|mask", group=GROUP)]
        | None
    ) = None
    """The value is in the unit of the images."""


def _paired(inputs: Inputs) -> bool:
    if inputs.vae is not None:
        return True
    from medgen.evaluation.reconstruction.pairs import pairs_of

    return inputs.reference is not None and bool(pairs_of(inputs.stored, inputs.reference, inputs.pairing))


RECONSTRUCTION = Metric(
    "reconstruction",
    "Reconstruction compares images pair by pair: with the cases of the same id in --reference, or with their "
    "reconstruction by --vae.",
    (Need(_paired, "needs pairs: give --vae, or a --reference that holds the same cases"),),
    ("vae", "reference"),
    ReconstructionOptions,
    files=("lpips",),
    either=True,
)
