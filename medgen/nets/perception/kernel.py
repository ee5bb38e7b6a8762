"""Distances of two samples of features by a cubic kernel (Binkowski et al. 2018), also jointly with conditions."""

from __future__ import annotations

import torch
from torch import Tensor


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x y / F + 1)^3 of all rows of x (N, F) with all of y (M, F): (N, M)."""
    base = (x @ y.T).div_(x.shape[1]).add_(1)
    return base.square().mul_(base)


def joint_distance(real: Tensor, made: Tensor, asked: Tensor) -> float:
    """How far images are from real ones under the same conditions: features (N, F) each, conditions (N, K).

    The unbiased squared discrepancy of the joint distributions of feature and condition, each standardized by the real
    ones and weighing the same (after DeVries et al. 2019, who join them for the Frechet distance). It rises both where
    images ignore their condition and where they show less variety than real ones do. It is about 0, or by chance
    below, where they agree.
    """
    conditions = _standard(asked, asked)
    x, y = (torch.cat([_standard(part, real), conditions], dim=1) for part in (real, made))
    width, count = x.shape[1] ** 0.5, len(x)
    own, other, between = (cubic_kernel(a * width, b * width) for a, b in ((x, x), (y, y), (x, y)))
    # Pairs of one condition are left out, as the two images of a pair are no independent draws.
    pairs = own + other - between - between.T
    return float((pairs.sum() - pairs.diagonal().sum()) / (count * (count - 1)))


def _standard(values: Tensor, by: Tensor) -> Tensor:
    """Columns (N, F) in units of the deviation of `by`, float64, scaled so that all rows of it have norm 1 on average.

    A column that does not vary there counts for nothing.
    """
    values, by = values.double(), by.double()
    deviation = by.std(0, correction=0)
    varied = deviation > 1e-9 * by.abs().mean(0).clamp(min=1e-12)
    scaled: Tensor = (values - by.mean(0)) / torch.where(varied, deviation, torch.inf)
    return scaled.div_(max(int(varied.sum()), 1) ** 0.5)
