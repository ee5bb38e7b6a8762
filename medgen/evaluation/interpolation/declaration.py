"""What interpolation needs, and its options."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from medgen.config import Options
from medgen.evaluation.declaration import Metric, Need


class InterpolationOptions(Options, frozen=True):
    """How thin slices are compared with thick ones; lengths in mm."""

    profile: Literal["box", "gaussian"] = "box"
    """Shape of the thick slices' profile."""
    thickness: Annotated[float, Meta(gt=0)] | None = None
    """For thick slices without a known thickness; none: their distance."""


INTERPOLATION = Metric(
    "interpolation",
    "Interpolation compares thin slices made from --thick with those of --reference, position by position in mm, next "
    "to linear and cubic interpolation and to the truth reconstructed by --vae.",
    (
        Need(
            lambda inputs: inputs.thick is not None,
            "needs the thick slices: give --thick, and the thin truth as --reference",
        ),
        Need(lambda inputs: inputs.reference is not None, "needs the thin truth: give --reference"),
    ),
    ("thick", "reference", "vae"),
    InterpolationOptions,
    alone=True,  # other metrics must be asked for: the reference has other slices
)
