"""How far generated images lie from real ones in feature space, beside how far real ones lie from each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.metrics.frechet import fit, frechet_distance
from medgen.nets.features import FixedFeatures

REPEATS = 5
"""Random splits of the reference, over which the floor is averaged."""
BATCH = 64


@dataclass(frozen=True)
class Extractor:
    """A named map from images (B, C, H, W) in [-1, 1] to features (B, F)."""

    name: str
    digest: str
    pooled: Callable[[Tensor], Tensor]


def builtin_extractor(device: torch.device | str = "cpu") -> Extractor:
    """The fixed features that need no download."""
    network = FixedFeatures().to(device)
    return Extractor("builtin", network.digest, lambda x: network.pooled(x.to(device)).cpu())


@dataclass(frozen=True)
class Features:
    """Features (N, F) of a set's slices, and the case (N,) that each slice belongs to."""

    values: Tensor
    cases: npt.NDArray[np.int64]
    skipped: int = 0
    """Slices left out because they held NaN or infinity."""


@torch.inference_mode()
def extract(stored: StoredSet, extractor: Extractor, advance: Callable[[int], object] = lambda n: None) -> Features:
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
    kept = np.concatenate(finite)
    return Features(torch.cat(parts), cases[kept].astype(np.int64), int((~kept).sum()))


def compare(generated: Features, reference: Features, extractor: Extractor, seed: int = 0) -> dict[str, Any]:
    """The Frechet distance of generated to reference, and what it would be between halves of the reference.

    The distance shrinks as samples grow in number, so that only distances at equal numbers compare: `floor` is
    real against real and `at_floor_size` generated against real, both with `floor_samples` a side.
    """
    n, m = len(generated.values), len(reference.values)
    whole = frechet_distance(fit(generated.values), fit(reference.values))
    random = np.random.default_rng(seed)
    floors, matched, size = [], [], 0
    for _ in range(REPEATS):
        left, right = halves(reference.cases, random)
        size = min(len(left), len(right), n)
        if size < 2:
            break
        left, right = random.permutation(left)[:size], random.permutation(right)[:size]
        drawn = random.permutation(n)[:size]
        half = fit(reference.values[torch.from_numpy(left)])
        floors.append(frechet_distance(half, fit(reference.values[torch.from_numpy(right)])))
        matched.append(frechet_distance(half, fit(generated.values[torch.from_numpy(drawn)])))
    return {
        "frechet_distance": whole,
        "samples": n,
        "reference_samples": m,
        "floor": _spread(floors),
        "at_floor_size": _spread(matched),
        "floor_samples": size if floors else 0,
        "extractor": {"name": extractor.name, "digest": extractor.digest, "features": generated.values.shape[1]},
        "left_out": {"samples": generated.skipped, "reference": reference.skipped},
        "warnings": list(_warnings(n, m, generated.values.shape[1], bool(floors))),
    }


def halves(
    cases: npt.NDArray[np.int64], random: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows in two parts of about equal size that share no case: slices of one patient resemble each other."""
    order = random.permutation(np.unique(cases))
    counts = np.array([(cases == case).sum() for case in order])
    first = order[: int(np.searchsorted(np.cumsum(counts), len(cases) / 2) + 1)]
    if len(first) == len(order):
        first = order[:-1]
    inside = np.isin(cases, first)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": float(np.mean(values)), "low": float(min(values)), "high": float(max(values))}


def _warnings(n: int, m: int, features: int, has_floor: bool) -> Iterable[str]:
    if min(n, m) <= features:
        yield (
            f"{min(n, m)} samples do not fill {features} features: the distance is biased upwards; "
            "compare at_floor_size with floor, not with distances of other sizes"
        )
    if not has_floor:
        yield "the reference has too few cases for a real-versus-real floor"
