"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

Each image reaches as far as its k-th nearest neighbour among its own kind, in other cases: the next slice of the same
patient is near whatever the rest looks like. All four are means over images, one value an image, computed in blocks:
no N x M matrix is held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.evaluation.distances import distances, on_grid
from medgen.evaluation.features.features import Features

ROWS = 1024

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Neighbourhoods:
    """Values of each of N samples and M real images; their means are the four figures."""

    precision: Values
    """(N,) 1 where a sample lies within reach of some real image."""
    density: Values
    """(N,) real images within whose reach a sample lies, over k; 1 on average for samples as good as real."""
    recall: Values
    """(M,) 1 where a real image lies within reach of some sample."""
    coverage: Values
    """(M,) 1 where some sample lies within reach of a real image."""
    nearest_real: Values
    """(N,) distance to the nearest real image."""


def neighbourhoods(samples: Features, real: Features, neighbours: int) -> Neighbourhoods | None:
    """Of samples (N, F) and real images (M, F); None where an image has fewer neighbours."""
    if min(_neighbours(samples.cases), _neighbours(real.cases)) < neighbours:
        return None
    x, y = on_grid(samples.values, real.values)
    reach_samples, reach_real = reach(x, samples.cases, neighbours), reach(y, real.cases, neighbours)
    density, nearest = [], []
    recall = torch.zeros(len(y), dtype=torch.bool)
    closest_sample = torch.full((len(y),), torch.inf, dtype=torch.float64)
    for start in range(0, len(x), ROWS):
        block = distances(x[start : start + ROWS], y)  # (rows, M)
        density.append((block <= reach_real).sum(1))
        nearest.append(block.amin(1))
        recall |= (block <= reach_samples[start : start + ROWS, None]).any(0)
        closest_sample = torch.minimum(closest_sample, block.amin(0))
    inside = torch.cat(density).double()
    return Neighbourhoods(
        precision=(inside > 0).double().numpy(),
        density=(inside / neighbours).numpy(),
        recall=recall.double().numpy(),
        coverage=(closest_sample <= reach_real).double().numpy(),
        nearest_real=torch.cat(nearest).numpy(),
    )


def reach(features: Tensor, cases: npt.NDArray[np.int64], neighbours: int) -> Tensor:
    """(N,) distance of each row (N, F), on a grid, to its k-th nearest row of another case."""
    case = torch.from_numpy(cases)
    parts = []
    for start in range(0, len(features), ROWS):
        block = distances(features[start : start + ROWS], features)
        block[case[start : start + ROWS, None] == case] = torch.inf
        parts.append(block.kthvalue(neighbours, dim=1).values)
    return torch.cat(parts)


def _neighbours(cases: npt.NDArray[np.int64]) -> int:
    """The fewest images of other cases that an image has."""
    return int(len(cases) - np.unique(cases, return_counts=True)[1].max())
