"""Options of evaluate: a table for each metric that has any."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import Options


class EvaluateOptions(Options, frozen=True):
    """How sets are measured."""

    metrics: tuple[str, ...] | None = None
    """Names of the metrics; none = all that the inputs allow."""
    features: str = "builtin"
    """Extractor of image features: builtin, or a local file."""
    seed: Annotated[int, Meta(ge=0)] = 0
