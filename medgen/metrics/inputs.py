"""What an evaluation looks at, as every metric gets it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from medgen.artifacts.stored import StoredSet
from medgen.metrics.features import FeatureBank
from medgen.metrics.options import EvaluateOptions


class Advance(Protocol):
    """Tells the progress that more is done."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """`count` more are done."""


Progress = Callable[[int | None, str], AbstractContextManager[Advance]]
"""From the number of items (None: unknown) and their unit."""


@dataclass(frozen=True)
class Reconstructor:
    """A VAE as metrics see it: images (B, C, H, W) in [-1, 1] to what is left of them; with its digest."""

    reconstruct: Callable[[Tensor], Tensor]
    digest: str


@dataclass(frozen=True)
class Inputs:
    """One set, and what it is compared with."""

    stored: StoredSet
    bank: FeatureBank
    options: EvaluateOptions
    progress: Progress
    reference: StoredSet | None = None
    """Real images, or the truth that the set should equal."""
    training: StoredSet | None = None
    """What the generator learned from."""
    vae: Reconstructor | None = None
    thick: StoredSet | None = None
    """The thick slices that the set was interpolated from."""


def slice_names(stored: StoredSet) -> list[str]:
    """A name for each slice, by which sets pair: the case's id, and the slice's number where it has several."""
    return [row.id if row.count == 1 else f"{row.id}/{depth}" for row in stored.cases for depth in range(row.count)]
