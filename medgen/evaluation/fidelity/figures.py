"""The fidelity figures of two samples of features: distances and neighbourhoods, with intervals and a floor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medgen.evaluation.features.features import Extractor, Features
from medgen.evaluation.fidelity.declaration import FidelityOptions
from medgen.evaluation.fidelity.frechet import frechet_between
from medgen.evaluation.fidelity.inception_score import inception_score, score, weighted_scores
from medgen.evaluation.fidelity.kernel_distance import kernel_distance, subset_distances, weighted_distances
from medgen.evaluation.fidelity.neighbourhoods import Neighbourhoods, Part, neighbourhoods, of_parts
from medgen.evaluation.intervals import around, fraction_interval, half_samples, half_weights, halves

REPEATS = 5
"""Random splits of the reference, over which the floor is averaged."""
FRECHET_DRAWS = 40
"""Halves of which the Frechet distance is taken, each with its eigenvalues; fewer where there are many features."""
FEW_DRAWS, MANY_FEATURES = 16, 512
NEIGHBOURHOOD_DRAWS = 40
DRAWS = 200
LIMIT = 10_000
"""Images a side of which the kernel distance is taken at once; of more, so many are drawn."""
NEIGHBOURHOOD = ("precision", "recall", "density", "coverage")

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Samples against real images, and the distributions of both kinds of nearest distances."""

    result: dict[str, Any]
    """JSON values."""
    nearest_real: Values
    """(N,) distance of each sample to the nearest real image; empty for too few images."""
    at_floor: dict[str, Values] = field(default_factory=dict)
    """Distances to the nearest image of one half of the reference: of samples, and of the other half."""


def names_of(extractor: Extractor) -> tuple[str, str]:
    """Names of the Frechet and the kernel distance in results: FID and KID are for Inception features only."""
    return ("fid", "kid") if extractor.is_inception else ("frechet_distance", "kernel_distance")


def compare(
    samples: Features, real: Features, extractor: Extractor, options: FidelityOptions, seed: int = 0
) -> Comparison:
    """All figures, for at least 2 samples against at least 2 real images.

    Most figures depend on the number of images, so compare only those at equal numbers: `floor` is real against real
    and `at_floor_size` generated against real, both with `floor_samples` a side.
    """
    frechet, kernel = names_of(extractor)
    n, m = len(samples), len(real)
    random = np.random.default_rng(seed)
    floors: list[dict[str, float]] = []
    matched: list[dict[str, float]] = []
    spreads: dict[str, Values] = {}
    size = 0
    for left, right, drawn in _splits(samples, real, random):
        size = len(left)
        half = real[left]
        for name, found, other in (("real", floors, real[right]), ("samples", matched, samples[drawn])):
            found.append({frechet: frechet_between(other.values, half.values)})
            found[-1][kernel] = kernel_distance(_some(other), _some(half))
            among = neighbourhoods(other, half, options.neighbours)
            if among is not None:
                found[-1].update({figure: float(getattr(among, figure).mean()) for figure in NEIGHBOURHOOD})
                spreads.setdefault(name, among.nearest_real)
    near, fractions = _fractions(samples, real, options, seed)
    figures: dict[str, Any] = {
        frechet: _frechet(samples, real, seed),
        kernel: _kernel(samples, real, options, seed),
        **fractions,
    }
    for name, figure in figures.items():
        if figure is not None:
            figure["floor"] = _spread([one[name] for one in floors if name in one])
            figure["at_floor_size"] = _spread([one[name] for one in matched if name in one])
    if extractor.probabilities is not None:
        figures["inception_score"] = _inception(samples, real, extractor, seed)
    counts = {"samples": n, "sample_cases": len(np.unique(samples.cases))}
    counts |= {"reference_samples": m, "reference_cases": len(np.unique(real.cases))}
    result = {**counts, "floor_samples": size, **figures}
    return Comparison(result, near.nearest_real if near is not None else np.empty(0), spreads)


def _splits(
    samples: Features, real: Features, random: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Equally many rows of one half of the real cases, of the other half, and of the samples, at least 2."""
    if len(np.unique(real.cases)) < 2:
        return
    for _ in range(REPEATS):
        left, right = halves(real.cases, random)
        size = min(len(left), len(right), len(samples))
        if size < 2:
            return
        yield (
            random.permutation(left)[:size],
            random.permutation(right)[:size],
            random.permutation(len(samples))[:size],
        )


def _frechet(samples: Features, real: Features, seed: int) -> dict[str, Any]:
    value = frechet_between(samples.values, real.values)
    draws = FRECHET_DRAWS if min(len(samples), len(real), samples.values.shape[1]) <= MANY_FEATURES else FEW_DRAWS
    redrawn = [
        frechet_between(samples.values[torch.from_numpy(ours)], real.values[torch.from_numpy(theirs)])
        for ours, theirs in _half_pairs(samples, real, seed, draws)
        if min(len(ours), len(theirs)) >= 2
    ]
    return around(value, np.array(redrawn), _fewer_cases(samples, real), least=0.0)


def _kernel(samples: Features, real: Features, options: FidelityOptions, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    size = max(min(options.subset_size, len(samples) // 2, len(real) // 2), 2)
    subsets = subset_distances(samples, real, options.subsets, size, random)
    subsets = subsets[np.isfinite(subsets)]
    ours, theirs = _some(samples, random), _some(real, random)
    weights = half_weights(ours.cases, seed, DRAWS), half_weights(theirs.cases, seed + 1, DRAWS)
    redrawn = weighted_distances(ours, theirs, *weights) if min(map(len, weights)) else np.empty(0)
    facts = {"subset_std": float(subsets.std()), "subsets": len(subsets), "subset_size": size}
    return {**around(float(subsets.mean()), redrawn, _fewer_cases(ours, theirs)), **facts}


def _half_pairs(samples: Features, real: Features, seed: int, draws: int) -> list[Part]:
    """Halves of both sides: the real images are a sample too, and another one would give other figures."""
    return list(zip(half_samples(samples.cases, seed, draws), half_samples(real.cases, seed + 1, draws), strict=False))


def _fewer_cases(samples: Features, real: Features) -> int:
    return min(len(np.unique(samples.cases)), len(np.unique(real.cases)))


def _some(features: Features, random: np.random.Generator | None = None) -> Features:
    """At most LIMIT rows: the first ones, or drawn at random."""
    if len(features) <= LIMIT:
        return features
    return features[np.arange(LIMIT) if random is None else np.sort(random.permutation(len(features))[:LIMIT])]


def _fractions(
    samples: Features, real: Features, options: FidelityOptions, seed: int
) -> tuple[Neighbourhoods | None, dict[str, Any]]:
    """Neighbourhoods of all images, and the four figures; none for too few images."""
    whole = (np.arange(len(samples)), np.arange(len(real)))
    pairs = _half_pairs(samples, real, seed, NEIGHBOURHOOD_DRAWS)
    found = of_parts(samples, real, options.neighbours, [whole, *pairs])
    if not found:
        return None, dict.fromkeys(NEIGHBOURHOOD)
    (near, *halved), fewer = found, _fewer_cases(samples, real)
    figures: dict[str, Any] = {}
    for name in NEIGHBOURHOOD:
        value = float(getattr(near, name).mean())
        redrawn = np.array([getattr(one, name).mean() for one in halved])
        fraction = None if name == "density" else fraction_interval(value, redrawn, fewer)
        figures[name] = fraction or around(value, redrawn, fewer, least=0.0)
    return near, figures


def _inception(samples: Features, real: Features, extractor: Extractor, seed: int) -> dict[str, Any]:
    """The samples' score over splits, and the reference's at equal numbers."""
    if extractor.probabilities is None:
        raise ValueError("the extractor has no class probabilities")
    random = np.random.default_rng(seed)
    ours, theirs = extractor.probabilities(samples.values), extractor.probabilities(real.values)
    value, deviation, splits = inception_score(ours, random.permutation(len(ours)))
    size = min(len(ours), len(theirs))
    rows = (
        torch.from_numpy(random.permutation(len(theirs))[:size]),
        torch.from_numpy(random.permutation(len(ours))[:size]),
    )
    redrawn = weighted_scores(ours, half_weights(samples.cases, seed, DRAWS))
    return {
        **around(value, redrawn, len(np.unique(samples.cases)), least=1.0),
        "split_std": deviation,
        "splits": splits,
        "of_reference": score(theirs[rows[0]]),
        "at_equal_number": score(ours[rows[1]]),
        "equal_number": size,
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": float(np.mean(values)), "low": float(min(values)), "high": float(max(values))}
