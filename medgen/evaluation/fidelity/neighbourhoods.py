"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

An image's radius reaches to its k-th nearest neighbour among its own kind, in other cases: the next slice of the same
patient is always near. All four figures are means over images, one value per image, computed in blocks: no N x M
matrix is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.evaluation.distances import distances, on_grid
from medgen.evaluation.features.features import Features

ROWS = 1024

Values = npt.NDArray[np.float64]
Part = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Rising numbers of rows of the samples, and of the real images."""


@dataclass(frozen=True)
class Neighbourhoods:
    """Values of each of N samples and M real images; their means are the four figures."""

    precision: Values
    """(N,) 1 where a sample lies within reach of some real image."""
    density: Values
    """(N,) number of real images within whose reach a sample lies, over k; 1 on average for samples as good as real."""
    recall: Values
    """(M,) 1 where a real image lies within reach of some sample."""
    coverage: Values
    """(M,) 1 where some sample lies within reach of a real image."""
    nearest_real: Values
    """(N,) distance to the nearest real image."""


def neighbourhoods(samples: Features, real: Features, neighbours: int) -> Neighbourhoods | None:
    """Of samples (N, F) and real images (M, F); None where an image has fewer neighbours."""
    found = of_parts(samples, real, neighbours, [(np.arange(len(samples)), np.arange(len(real)))])
    return found[0] if found else None


def of_parts(samples: Features, real: Features, neighbours: int, parts: Sequence[Part]) -> list[Neighbourhoods]:
    """The same for each of `parts`, some rows of each side, except parts in which an image has too few neighbours.

    Distances are computed once for all parts.
    """
    parts = [
        (ours, theirs)
        for ours, theirs in parts
        if min(_neighbours(samples.cases[ours]), _neighbours(real.cases[theirs])) >= neighbours
    ]
    x, y = on_grid(samples.values, real.values)
    ours, theirs = ([torch.from_numpy(part[side]) for part in parts] for side in (0, 1))
    reach_samples, reach_real = reach(x, samples.cases, neighbours, ours), reach(y, real.cases, neighbours, theirs)
    density = [torch.zeros(len(rows), dtype=torch.float64) for rows in ours]
    nearest = [torch.zeros(len(rows), dtype=torch.float64) for rows in ours]
    recall = [torch.zeros(len(rows), dtype=torch.bool) for rows in theirs]
    closest = [torch.full((len(rows),), torch.inf, dtype=torch.float64) for rows in theirs]
    for start in range(0, len(x), ROWS):
        block = distances(x[start : start + ROWS], y)  # (rows, M)
        for part, columns in enumerate(theirs):
            inside = _within(ours[part], start)
            found = block[ours[part][inside] - start][:, columns]
            if not len(found):
                continue
            density[part][inside] = (found <= reach_real[part]).sum(1).double()
            nearest[part][inside] = found.amin(1)
            recall[part] |= (found <= reach_samples[part][inside, None]).any(0)
            closest[part] = torch.minimum(closest[part], found.amin(0))
    return [
        Neighbourhoods(
            precision=(density[part] > 0).double().numpy(),
            density=(density[part] / neighbours).numpy(),
            recall=recall[part].double().numpy(),
            coverage=(closest[part] <= reach_real[part]).double().numpy(),
            nearest_real=nearest[part].numpy(),
        )
        for part in range(len(parts))
    ]


def reach(features: Tensor, cases: npt.NDArray[np.int64], neighbours: int, parts: Sequence[Tensor]) -> list[Tensor]:
    """For each part (rising row numbers (n,)), each row's distance (n,) to its k-th nearest row of another case.

    The rows of `features` (N, F) lie on a grid.
    """
    case = torch.from_numpy(cases)
    found = [torch.zeros(len(rows), dtype=torch.float64) for rows in parts]
    for start in range(0, len(features), ROWS):
        block = distances(features[start : start + ROWS], features)
        block[case[start : start + ROWS, None] == case] = torch.inf
        for part, rows in enumerate(parts):
            inside = _within(rows, start)
            if inside.start < inside.stop:
                found[part][inside] = block[rows[inside] - start][:, rows].kthvalue(neighbours, dim=1).values
    return found


def _within(rows: Tensor, start: int) -> slice:
    """Where in rising row numbers those of the block from `start` on stand."""
    first, last = torch.searchsorted(rows, torch.tensor([start, start + ROWS])).tolist()
    return slice(first, last)


def _neighbours(cases: npt.NDArray[np.int64]) -> int:
    """The smallest number of images of other cases that any image has."""
    return int(len(cases) - np.unique(cases, return_counts=True)[1].max())
