"""The inputs of an evaluation, as every metric gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.artifacts.stored import StoredSet
from medgen.evaluation.features.features import FeatureBank
from medgen.evaluation.pairing import UNNAMED, Pairing
from medgen.imaging.cases.identity import owner_of
from medgen.imaging.labels.ratings import Ratings
from medgen.reporting import Progress

Images = npt.NDArray[np.float32]


class MapMaker(Protocol):
    """Makes anomaly maps of images and other normal versions of them as those of a set were made."""

    @property
    def calibrated(self) -> bool:
        """Whether the set's maps are deviations from those of normal images."""

    def __call__(self, images: Images, versions: Images, places: Sequence[tuple[str, int]]) -> tuple[Images, Images]:
        """Images and versions of one case, (B, C, H, W) in [-1, 1] -> maps (B, 4, H, W) and scores (B,).

        `places`: the case and the number of each slice.
        """

    def calibrated_by(self, normal: Iterable[tuple[Sequence[tuple[str, int]], Images]]) -> MapMaker:
        """The same, in deviations from maps (B, 4, H, W) of normal slices, which are compared with the others."""


@dataclass(frozen=True)
class Reconstructor:
    """A VAE as metrics see it: images (B, C, H, W) in [-1, 1] to their reconstructions; with its digest."""

    reconstruct: Callable[[Tensor], Tensor]
    digest: str


@dataclass(frozen=True)
class Inputs:
    """One set, and what it is compared with."""

    stored: StoredSet
    bank: FeatureBank
    progress: Progress
    reference: StoredSet | None = None
    """Real images, or the truth that the set should equal."""
    training: StoredSet | None = None
    """The generator's training images."""
    vae: Reconstructor | None = None
    maps: MapMaker | None = None
    thick: StoredSet | None = None
    """The thick slices that the set was interpolated from."""
    pairing: Pairing = UNNAMED
    """Which cases of these sets show the same."""
    ratings: Ratings | None = None
    """What experts said of the set."""
    whole: StoredSet | None = None
    """The set with all its splits, where `stored` is one of them."""
    seed: int = 0
    """Seed of everything random."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where networks trained during the evaluation run."""


def owners(stored: StoredSet) -> list[int]:
    """A number for each case: of the first case of its patient, where the ids tell the patient, else its own.

    What is learned from some images is not tried on others of the same patient, which resemble them.
    """
    first: dict[str, int] = {}
    return [first.setdefault(owner_of(row.id), number) for number, row in enumerate(stored.cases)]


def slice_names(stored: StoredSet) -> list[str]:
    """A name for each slice, by which sets pair: the case's id, and the slice's number where it has several."""
    return [row.id if row.count == 1 else f"{row.id}/{depth}" for row in stored.cases for depth in range(row.count)]
