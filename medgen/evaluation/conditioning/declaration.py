"""What conditioning needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medgen.evaluation.declaration import Metric, Need

if TYPE_CHECKING:
    from medgen.evaluation.inputs import Inputs

FIELDS = ("has_nodule", "x", "y", "size")


def _in_hounsfield_units(inputs: Inputs) -> bool:
    intensity = inputs.stored.header.intensity
    return intensity is not None and intensity.unit == "HU"


CONDITIONING = Metric(
    "conditioning",
    "Conditioning asks whether each sample shows the nodule its vector asks for. The rule that measures nodules is "
    "fitted to one half of --reference and tested on the other.",
    (
        Need(
            lambda inputs: set(FIELDS) <= set(inputs.stored.header.vector_fields),
            f"needs a set whose vectors name {', '.join(FIELDS)}: generate it with --vector or --like",
        ),
        Need(_in_hounsfield_units, "measures nodules in CT: it needs a set in HU"),
    ),
    ("reference",),
)
