"""Features of a set's images by a named extractor, computed once however many metrics use them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.reporting import Advance, unseen

BATCH = 64

Result = TypeVar("Result")


@dataclass(frozen=True)
class Extractor:
    """A named map from images (B, C, H, W) in [-1, 1] to features (B, F)."""

    name: str
    digest: str
    pooled: Callable[[Tensor], Tensor]
    probabilities: Callable[[Tensor], Tensor] | None = None
    """From features to class probabilities (B, K); only Inception has them."""

    @property
    def is_inception(self) -> bool:
        """Whether distances in these features are those called FID and KID."""
        return self.probabilities is not None


@dataclass(frozen=True)
class Features:
    """Features (N, F) of a set's slices, and the case (N,) and the number in the set (N,) of each slice."""

    values: Tensor
    cases: npt.NDArray[np.int64]
    slices: npt.NDArray[np.int64]
    skipped: int = 0
    """Slices left out because they held NaN or infinity."""

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Features:
        """Some of the rows, in the order asked for."""
        return Features(self.values[torch.from_numpy(rows)], self.cases[rows], self.slices[rows])


@dataclass
class FeatureBank:
    """Cache of features by set, and of results from them, shared by several metrics and by sets with one reference."""

    extractor: Extractor
    _known: dict[Hashable, Any] = field(default_factory=dict)

    def of(self, stored: StoredSet, advance: Advance = unseen) -> Features:
        """The features of an image set (or of a split of it)."""
        return self.once(("features", key_of(stored)), lambda: extract(stored, self.extractor, advance))

    def once(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result of `make`, computed only the first time that `key` is asked for."""
        if key not in self._known:
            self._known[key] = make()
        result: Result = self._known[key]
        return result


def key_of(stored: StoredSet) -> Hashable:
    """A key that is equal for the same cases of the same set."""
    return stored.tail.digest, tuple(row.id for row in stored.cases)


@torch.inference_mode()
def extract(stored: StoredSet, extractor: Extractor, advance: Advance = unseen) -> Features:
    """Features of all slices of an image set, read in batches."""
    intensity = stored.header.intensity
    if stored.header.kind != "image" or intensity is None:
        raise DataError(f"a set of kind '{stored.header.kind}' has no images to take features of; decode it first")
    cases = np.concatenate([np.full(row.count, number) for number, row in enumerate(stored.cases)] or [np.empty(0)])
    parts: list[Tensor] = []
    finite: list[npt.NDArray[np.bool_]] = []
    for start in range(0, stored.slices, BATCH):
        rows = range(start, min(start + BATCH, stored.slices))
        images = intensity.normalized(stored.read("image", rows))
        whole: npt.NDArray[np.bool_] = np.asarray(np.isfinite(images).all(axis=(1, 2, 3)))
        finite.append(whole)
        if whole.any():
            parts.append(extractor.pooled(torch.from_numpy(images[whole])))
        advance(len(rows))
    if not parts:
        raise DataError("a set without a single finite image has no features")
    found = np.concatenate(finite)
    return Features(torch.cat(parts), cases[found].astype(np.int64), np.flatnonzero(found), int((~found).sum()))
