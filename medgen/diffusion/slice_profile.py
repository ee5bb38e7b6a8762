"""Slices as a scanner measures them: thick ones average thin ones, along z, at positions in mm.

Each operation is one small matrix along the slice axis: measuring (M thick from N thin slices), interpolating (N from
M), and correcting a thin volume so that measuring it gives what was measured. Matrices are float64, on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

from medgen.diffusion.options import ProfileShape
from medgen.errors import DataError

Positions = Tensor | Sequence[float]

FWHM_IN_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
GAUSSIAN_REACH = 1.5  # half the support of a Gaussian profile, in FWHM: 99.96 % of its area
_ROWS_AT_ONCE = 32


def profile_matrix(
    thick_positions: Positions,
    thin_positions: Positions,
    thickness: float,
    shape: ProfileShape = "box",
    thin_thickness: float | None = None,
) -> Tensor:
    """A (M, N) with rows that sum to 1: thick slice m = sum over n of A[m, n] * thin slice n.

    Positions are slice centres in mm. `thickness` is the full width of a box profile, or the FWHM of a Gaussian one;
    gaps and overlaps follow from the positions. A thin slice covers `thin_thickness` mm about its centre (its spacing
    by default, so that thin slices without gaps tile the axis). Where a profile extends beyond the end of the thin
    slices, the part over them is scaled to sum to 1. DataError naming a thick slice that overlaps no thin one.
    """
    overlap = _overlap(thick_positions, thin_positions, thickness, shape, thin_thickness)
    covered = overlap.sum(dim=1, keepdim=True)
    if bool((covered <= 1e-9).any()):
        row = int(torch.nonzero(covered[:, 0] <= 1e-9)[0])
        where = float(torch.as_tensor(thick_positions)[row])
        raise DataError(f"thick slice {row} at {where:.4g} mm: no thin slice lies within its {thickness:g} mm")
    return overlap / covered


def coverage(
    thick_positions: Positions,
    thin_positions: Positions,
    thickness: float,
    shape: ProfileShape = "box",
    thin_thickness: float | None = None,
) -> Tensor:
    """(M,) share in [0, 1] of each thick slice's profile that lies over thin slices; below 1 only at ends and gaps."""
    return _overlap(thick_positions, thin_positions, thickness, shape, thin_thickness).sum(dim=1).clamp(max=1.0)


def linear_matrix(thin_positions: Positions, thick_positions: Positions) -> Tensor:
    """(N, M): linear between the two nearest thick slices; constant beyond the first and the last."""
    return _spline_matrix(thin_positions, thick_positions, degree=1)


def cubic_matrix(thin_positions: Positions, thick_positions: Positions) -> Tensor:
    """(N, M): the natural cubic spline through the thick slices; constant beyond the first and the last."""
    return _spline_matrix(thin_positions, thick_positions, degree=3)


def _spline_matrix(thin_positions: Positions, thick_positions: Positions, degree: Literal[1, 3]) -> Tensor:
    """A spline is linear in its values: column j is the spline through 1 at knot j and 0 at the others."""
    targets, knots = _inside(thin_positions, thick_positions)
    if len(knots) == 1:
        return torch.ones(len(targets), 1, dtype=torch.float64)
    if len(knots) < 3:
        degree = 1
    ends: Literal["natural"] | None = "natural" if degree == 3 else None
    spline = make_interp_spline(knots.numpy(), np.eye(len(knots)), k=degree, bc_type=ends)
    return torch.from_numpy(spline(targets.numpy()))


def resample(volume: Tensor, matrix: Tensor, dim: int = -3) -> Tensor:
    """Apply `matrix` (K, N) along `dim` of `volume` (.., N, ..): (.., K, ..), in the volume's type, on its device.

    Only the non-zero band of the matrix is multiplied, a few rows at a time.
    """
    if volume.shape[dim] != matrix.shape[1]:
        raise DataError(f"volume has {volume.shape[dim]} slices, its positions are {matrix.shape[1]}")
    slices = volume.movedim(dim, 0)
    result = volume.new_empty((len(matrix), *slices.shape[1:]))
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        rows = matrix[start : start + _ROWS_AT_ONCE]
        used = torch.nonzero((rows != 0).any(dim=0))[:, 0]
        if not len(used):
            result[start : start + len(rows)] = 0
            continue
        band = slice(int(used[0]), int(used[-1]) + 1)
        weights = rows[:, band].to(volume)
        result[start : start + len(rows)] = torch.tensordot(weights, slices[band], dims=1)
    return result.movedim(0, dim)


def pseudo_inverse(matrix: Tensor, ridge: float = 1e-6, tolerance: float = 1e-9) -> Tensor:
    """A^+ = A^T (A A^T + ridge * mean(diag) I)^-1, (N, M), of a profile matrix A (M, N).

    The ridge bounds the change where thick slices overlap so much that A A^T is nearly singular. Its entries decay
    exponentially away from the band of A; those below `tolerance` of the largest are dropped, so that the correction of
    a slice depends on its neighbourhood alone, however deep the volume is.
    """
    gram = matrix @ matrix.T  # (M, M), banded
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    inverse = torch.linalg.solve(gram, matrix).T
    return torch.where(inverse.abs() > tolerance * inverse.abs().max(), inverse, 0.0)


def _overlap(
    thick_positions: Positions,
    thin_positions: Positions,
    thickness: float,
    shape: ProfileShape,
    thin_thickness: float | None,
) -> Tensor:
    """(M, N): the part of each thick profile (of area 1) that lies over each thin slice."""
    thick, thin = _ascending(thick_positions, "thick"), _ascending(thin_positions, "thin")
    if thin_thickness is None:
        thin_thickness = float(torch.diff(thin).median()) if len(thin) > 1 else thickness
    if not (thickness > 0 and thin_thickness > 0):
        raise DataError(f"slice thickness {thickness:g} mm of {thin_thickness:g} mm: both must be above 0")
    low = thin[None] - thin_thickness / 2 - thick[:, None]  # (M, N), relative to the thick slice's centre
    high = low + thin_thickness
    reach = thickness * (0.5 if shape == "box" else GAUSSIAN_REACH)
    low, high = low.clamp(-reach, reach), high.clamp(-reach, reach)
    if shape == "box":
        area = (high - low) / thickness
    else:
        scale = FWHM_IN_SIGMA / (thickness * math.sqrt(2.0))
        area = (torch.erf(high * scale) - torch.erf(low * scale)) / (2.0 * math.erf(reach * scale))
    return torch.where(area > 1e-12, area, 0.0)  # rounding at touching edges is not overlap


def _inside(thin_positions: Positions, thick_positions: Positions) -> tuple[Tensor, Tensor]:
    """The target positions, clamped to the range of the knots, and the knots."""
    knots = _ascending(thick_positions, "thick")
    return torch.as_tensor(thin_positions, dtype=torch.float64).clamp(float(knots[0]), float(knots[-1])), knots


def _ascending(positions: Positions, which: str) -> Tensor:
    values = torch.as_tensor(positions, dtype=torch.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(f"{which} slices: expected a row of positions in mm, not shape {tuple(values.shape)}")
    if not bool((torch.diff(values) > 0).all()):
        raise DataError(f"{which} slices: their positions must rise from slice to slice")
    return values
