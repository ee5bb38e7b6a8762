"""The kernel distance: squared maximum mean discrepancy under a cubic kernel (Binkowski et al. 2018, KID).

It is unbiased, so unlike the Frechet distance it can be compared between samples of different size. Only images of
different cases are paired: slices of one patient resemble each other, and would inflate every distance. Where each
case is one image, this is the usual estimate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.evaluation.features.features import Features
from medgen.nets.perception.kernel import cubic_kernel

ROWS = 1024
"""Rows of the kernel matrix that are held at once."""

Values = npt.NDArray[np.float64]


def kernel_distance(x: Features, y: Features) -> float:
    """Unbiased squared discrepancy, which may fall below 0 by chance where x and y agree; NaN for a single image."""
    return float(weighted_distances(x, y, np.ones((1, len(x))), np.ones((1, len(y))))[0])


def subset_distances(x: Features, y: Features, subsets: int, size: int, random: np.random.Generator) -> Values:
    """The kernel distances (subsets,) of `size` images from each side, drawn without replacement."""
    return np.array(
        [
            kernel_distance(
                x[random.choice(len(x), size, replace=False)], y[random.choice(len(y), size, replace=False)]
            )
            for _ in range(subsets)
        ]
    )


def weighted_distances(x: Features, y: Features, weights_x: Values, weights_y: Values) -> Values:
    """The distances (B,) where each image counts as often as weights_x (B, N) and weights_y (B, M) say.

    The kernel is computed only once, block by block, for all weightings.
    """
    a, b = torch.from_numpy(weights_x), torch.from_numpy(weights_y)
    between = _sum(x.values.double(), y.values.double(), a, b) / (a.sum(1) * b.sum(1))
    return np.asarray((_within(x, a) + _within(y, b) - 2 * between).numpy())


def _within(x: Features, weights: Tensor) -> Tensor:
    """(B,) weighted means of the kernel over pairs of images from different cases (of one case: different images)."""
    values = x.values.double()
    names, place = np.unique(x.cases, return_inverse=True)
    if len(names) in (1, len(x)):
        own = (values.square().sum(1) / values.shape[1] + 1).pow(3) @ weights.square().T
        pairs = weights.square().sum(1)
    else:
        own, pairs = torch.zeros(2, len(weights), dtype=torch.float64)
        for case in range(len(names)):
            rows = torch.from_numpy(np.flatnonzero(place == case))
            part = weights[:, rows]
            own += _sum(values[rows], values[rows], part, part)
            pairs += part.sum(1).square()
    return (_sum(values, values, weights, weights) - own) / (weights.sum(1).square() - pairs)


def _sum(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(B,) sums over i and j of a_i k(x_i, y_j) b_j."""
    total = torch.zeros(len(a), dtype=torch.float64)
    for start in range(0, len(x), ROWS):
        block = slice(start, start + ROWS)
        total += ((cubic_kernel(x[block], y) @ b.T) * a[:, block].T).sum(0)
    return total
