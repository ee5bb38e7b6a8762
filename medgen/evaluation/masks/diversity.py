"""How different images of one mask are, compared with real images among each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medgen.artifacts.stored import StoredSet
from medgen.evaluation.distances import distances, on_grid
from medgen.evaluation.features.features import Features
from medgen.evaluation.segmentation.overlap import mean_of

Rows = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]
"""(B, N) which images a row is compared with."""
BATCH = 64


def mask_groups(stored: StoredSet, slices: Rows) -> Rows:
    """(N,) a number for each slice, equal where masks are equal."""
    digests: list[bytes] = []
    for start in range(0, len(slices), BATCH):
        masks = np.ascontiguousarray(stored.read("mask", slices[start : start + BATCH]))
        digests += [hashlib.sha256(mask.tobytes()).digest() for mask in masks]
    return np.unique(np.array(digests), return_inverse=True)[1].astype(np.int64)


def diversity(samples: Features, groups: Rows, real: Features, seed: int) -> dict[str, Any]:
    """Mean feature distances between samples of one mask, of different masks, and between real images.

    Each image counts once, with its mean distance to the images it is compared with; real ones are compared with those
    of other cases.
    """
    ours, theirs = on_grid(samples.values, real.values)
    shared = np.bincount(groups)[groups] > 1

    def alike(rows: Rows) -> Chosen:
        same: Chosen = (groups[rows, None] == groups) & (rows[:, None] != np.arange(len(groups)))
        return same

    return {
        "masks": len(np.unique(groups)),
        "masks_with_several_samples": len(np.unique(groups[shared])),
        "samples_of_one_mask": _mean(ours, alike, groups, seed),
        "samples_of_different_masks": _mean(ours, lambda rows: groups[rows, None] != groups, samples.cases, seed),
        "real": _mean(theirs, lambda rows: real.cases[rows, None] != real.cases, real.cases, seed),
    }


def _mean(
    features: Tensor, partners: Callable[[Rows], Chosen], cases: Rows, seed: int
) -> dict[str, float | None] | None:
    """Mean of each row's mean distance to its partners, with the interval by case; None where no row has any."""
    values = np.full(len(features), np.nan)
    for start in range(0, len(features), BATCH):
        rows = np.arange(start, min(start + BATCH, len(features)))
        chosen = partners(rows)
        apart = distances(features[rows[0] : rows[-1] + 1], features).numpy()
        values[rows] = np.divide(
            (apart * chosen).sum(axis=1), chosen.sum(axis=1), out=values[rows], where=chosen.any(axis=1)
        )
    return mean_of(values, cases, (0.0, np.inf), seed)
