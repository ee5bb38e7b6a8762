"""Options of evaluate: the shared ones, and a table for each metric that declares any."""

from __future__ import annotations

from typing import Annotated, cast

import msgspec

from medgen.config import Options, option
from medgen.evaluation.declaration import Metric
from medgen.evaluation.features.options import TorchScriptOptions
from medgen.evaluation.registry import METRICS
from medgen.imaging.cases.options import ReadingOptions

METRICS_SAID = "\n\n".join(one.about for one in METRICS.values())
"""What each metric answers and from what, a paragraph each."""


class SharedOptions(Options, frozen=True):
    """How sets are measured, whatever the metric."""

    metrics: (
        Annotated[
            tuple[str, ...],
            option(f"What to measure: {', '.join(METRICS)}.", metavar="A,B,...", default="all that the inputs allow"),
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
    torchscript: TorchScriptOptions = TorchScriptOptions()
    pair_by: Annotated[
        str,
        option(
            "Which cases belong together: those with the same case id, patient or path, or in the same row of a CSV "
            "(columns set, reference, thick).",
            metavar="case|patient|path|FILE.csv",
            default="case, else frame of reference",
        ),
    ] = ""
    reading: ReadingOptions = ReadingOptions()
    """For images from files; what is not set is taken from the sets beside them."""
    seed: Annotated[int, option("Seed of everything random.", ge=0)] = 0

    def of(self, metric: Metric) -> Options | None:
        """The table of a metric; None if it declares no options."""
        table: Options | None = getattr(self, metric.name) if metric.options else None
        return table


_TABLES = [(one.name, one.options, one.options()) for one in METRICS.values() if one.options]
EvaluateOptions = cast(
    type[SharedOptions], msgspec.defstruct("EvaluateOptions", _TABLES, bases=(SharedOptions,), frozen=True)
)
"""All of them, as `medgen evaluate` takes them."""
