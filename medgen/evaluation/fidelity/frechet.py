"""The Frechet distance between two sets of features, modelled as Gaussians (Heusel et al. 2017, eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medgen.errors import DataError


@dataclass(frozen=True)
class Gaussian:
    """Mean (F,) and covariance (F, F), float64."""

    mean: Tensor
    covariance: Tensor


def fit(features: Tensor) -> Gaussian:
    """The Gaussian with the mean and the unbiased covariance of features (N, F); DataError for fewer than 2 rows."""
    if len(features) < 2:
        raise DataError(f"{len(features)} samples have no covariance; a Frechet distance needs at least 2 a side")
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return Gaussian(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)); a squared distance, as is the custom.

    tr (A B)^(1/2) is computed from the eigenvalues of A^(1/2) B A^(1/2), which is symmetric. So it is exact for
    singular covariances too, where the matrix square root of A B is not defined.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ b.covariance @ root)
    overlap = product.clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * overlap
    return max(float(distance), 0.0)


def frechet_between(x: Tensor, y: Tensor) -> float:
    """The Frechet distance of the Gaussians fitted to features x (N, F) and y (M, F).

    Where one side has fewer rows than features, its covariance is X'X with a short X (centred, scaled). Then
    tr (A B)^(1/2) is the sum of the singular values of X Y', computed from the N x N matrix X Y'Y X'.
    """
    x, y = (x, y) if len(x) <= len(y) else (y, x)
    if len(x) > x.shape[1]:
        return frechet_distance(fit(x), fit(y))
    if len(x) < 2:
        raise DataError(f"{len(x)} samples have no covariance; a Frechet distance needs at least 2 a side")
    x, y = x.double(), y.double()
    shift = x.mean(0) - y.mean(0)
    x = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    y = (y - y.mean(0)) / (len(y) - 1) ** 0.5
    cross = x @ y.T  # (N, M)
    overlap = torch.linalg.eigvalsh(cross @ cross.T).clamp(min=0).sqrt().sum()
    distance = shift.square().sum() + x.square().sum() + y.square().sum() - 2 * overlap
    return max(float(distance), 0.0)
