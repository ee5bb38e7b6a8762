"""Distances between rows of two matrices, identical to the last digit for any blocks, threads and processor.

|a - b|^2 = |a|^2 + |b|^2 - 2 a.b is the fastest way, but loses precision for near rows: the large terms cancel, and
the digits left depend on the order of the sums. On a grid coarse enough, all products and sums are whole multiples of
its squared step that float64 holds exactly. So no digits are lost, equal rows are 0 apart, and equal distances stay
equal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DIGITS = 53
"""Binary digits of a float64."""
COARSEST = 2.0**-10
"""Step over the root mean square of a usual row from which on rounding would matter."""


def on_grid(*matrices: Tensor) -> tuple[Tensor, ...]:
    """Matrices (N, F), (M, F), ... less their common centre, rounded to one grid, float64.

    The step is about 2^-21 of the largest value for 468 columns, finer for fewer. Where one value is so large that the
    others would vanish, they stay as they are; only then may the last digits of `distances` differ.
    """
    whole = torch.cat(matrices).double()
    centre = whole.median(0).values  # unlike the mean it stays in the middle where one row lies far out
    centred = whole - centre
    step = step_of(float(centred.abs().max()), whole.shape[1])
    if step < COARSEST * float(centred.square().mean(1).sqrt().median()):
        # A centre on the grid shifts all rows equally, so its own rounding changes no distance.
        centred = ((whole / step).round_() - (centre / step).round_()) * step
    return torch.split(centred, [len(matrix) for matrix in matrices])


def step_of(largest: float, width: int) -> float:
    """The power of two on whose multiples, up to `largest`, squared distances of rows of `width` values are exact.

    In steps, |a|^2 + |b|^2 - 2 a.b and its partial sums stay below 4 F (largest / step)^2, which may take 53 digits.
    """
    digits = (DIGITS - 2 - math.ceil(math.log2(max(width, 1)))) // 2
    return 2.0 ** (math.ceil(math.log2(max(largest, 1e-300))) - digits)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, M) Euclidean distances of rows x (N, F) and y (M, F) on one grid."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(squares, x, y.T, alpha=-2).clamp_(min=0).sqrt_()
