"""Options of evaluate: a table for each metric that has any."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from medgen.config import Options


class ReconstructionOptions(Options, frozen=True):
    """How pairs of images are compared."""

    lpips: str | None = None
    """A safetensors file of LPIPS weights; without it LPIPS is not measured."""
    foreground: str | None = None
    """Only these pixels: those above a value in the unit of the images, or `mask` for those that the masks mark."""


class EvaluateOptions(Options, frozen=True):
    """How sets are measured."""

    metrics: tuple[str, ...] | None = None
    """Names of the metrics; none = all that the inputs allow."""
    features: str = "builtin"
    """Extractor of image features: builtin, or a local file."""
    reconstruction: ReconstructionOptions = ReconstructionOptions()
    seed: Annotated[int, Meta(ge=0)] = 0
