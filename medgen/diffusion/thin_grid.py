"""Positions of thin slices between thick ones, and how a network sees them: shared by training and sampling.

Positions are slice centres along z in mm, increasing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from medgen.diffusion.options import ProfileShape
from medgen.diffusion.slice_profile import Positions, cubic_matrix, profile_matrix, pseudo_inverse

PLACES = 2
"""Channels of `places`."""
SCALES = 3
"""Numbers in `scales`."""
ROUNDING = 0.01
"""Share of a thin slice by which the grid may exceed what was measured, so that spacings can be rounded (0.6667 mm)."""
TYPICAL = 4.0
"""mm; the length that `scales` maps to one half."""


def thin_positions(thick_positions: Positions, thickness: float, spacing: float) -> Tensor:
    """(N,) centres `spacing` mm apart over the measured extent, centred in it, float64.

    The measured extent is what the thick slices cover; where they overlap, the outermost half of the overlap is left
    out.
    """
    thick = torch.as_tensor(thick_positions, dtype=torch.float64)
    step = float(thick[-1] - thick[0]) / max(len(thick) - 1, 1)
    extent = float(thick[-1] - thick[0]) + (min(thickness, step) if len(thick) > 1 else thickness)
    count = max(1, math.floor(extent / spacing + ROUNDING))
    middle = float(thick[0] + thick[-1]) / 2
    return middle + (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * spacing


def places(thin: Positions, thick: Positions, thickness: float, thin_thickness: float) -> Tensor:
    """(2, N) float32 in [0, 1]: the closeness of each thin slice to a thick one's centre, and its measured share.

    The first is 1 at a centre and falls to 0 halfway to the next; the second is 0 in gaps and beyond the ends.
    """
    thin, thick = (torch.as_tensor(values, dtype=torch.float64) for values in (thin, thick))
    step = float(thick[-1] - thick[0]) / max(len(thick) - 1, 1)
    distance = (thin[:, None] - thick).abs().amin(dim=1)
    low = torch.maximum(thin[:, None] - thin_thickness / 2, thick - thickness / 2)
    high = torch.minimum(thin[:, None] + thin_thickness / 2, thick + thickness / 2)
    measured = (high - low).clamp(min=0).sum(dim=1) / thin_thickness
    return torch.stack([(1 - 2 * distance / step).clamp(min=0), measured.clamp(max=1)]).float()


def scales(thin_spacing: float, thick_spacing: float, thickness: float) -> Tensor:
    """(3,) float32 in (0, 1): the three lengths in mm, each as length / (length + 4 mm)."""
    lengths = torch.tensor([thin_spacing, thick_spacing, thickness], dtype=torch.float64)
    return (lengths / (lengths + TYPICAL)).float()


def spline_matrix(
    thin: Positions, thick: Positions, thickness: float, thin_thickness: float, profile: ProfileShape = "box"
) -> Tensor:
    """(N, M): cubic interpolation, corrected so that measuring it gives the thick slices back.

    C + A^+ (1 - A C): the best estimate of all thin slices without a model.
    """
    cubic = cubic_matrix(thin, thick)
    measuring = profile_matrix(thick, thin, thickness, profile, thin_thickness)
    return cubic + pseudo_inverse(measuring) @ (torch.eye(len(cubic.T), dtype=torch.float64) - measuring @ cubic)


def window_spline(thin: Tensor, thick: Tensor, thickness: float, spacing: float) -> Tensor:
    """(N, M): `spline_matrix` at the slices of a window, for thick slices that may extend beyond it."""
    before = max(0, math.ceil(float(thin[0] - thick[0] + thickness / 2) / spacing - 0.5))
    after = max(0, math.ceil(float(thick[-1] - thin[-1] + thickness / 2) / spacing - 0.5))
    count = before + len(thin) + after
    grid = thin[0] + spacing * (torch.arange(count, dtype=torch.float64) - before)
    return spline_matrix(grid, thick, thickness, spacing)[before : before + len(thin)]


def network_input(noisy: Tensor, guess: Tensor, places: Tensor) -> Tensor:
    """The network's input: noisy and guess (B, c, N, h, w) and places (B, 2, N) -> (B, 2c + 2, N, h, w)."""
    spread = places.to(guess)[..., None, None].expand(-1, -1, -1, *guess.shape[-2:])
    return torch.cat([noisy, guess.to(noisy.dtype), spread.to(noisy.dtype)], dim=1)


def window_starts(count: int, depth: int, overlap: int) -> list[int]:
    """First slices of windows of `depth` that cover `count` slices, each pair sharing at least `overlap`."""
    if count <= depth:
        return [0]
    number = math.ceil((count - overlap) / (depth - overlap))
    return [round(index * (count - depth) / (number - 1)) for index in range(number)]


def window_weights(start: int, depth: int, count: int, overlap: int) -> Tensor:
    """(depth,) weights of a window in the blend: ramps over `overlap` slices, except at the ends of the volume."""
    rise = (torch.arange(depth, dtype=torch.float32) + 1) / (overlap + 1)
    left = rise.clamp(max=1) if start > 0 else torch.ones(depth)
    right = rise.flip(0).clamp(max=1) if start + depth < count else torch.ones(depth)
    return torch.minimum(left, right)


def blended(windows: Iterable[tuple[int, Tensor]], count: int, overlap: int) -> Iterator[Tensor]:
    """Pairs of first slice and window (S, depth, c, h, w), in order -> all `count` slices, (S, n, c, h, w) at a time.

    Slices are yielded as soon as the next window begins behind them, so that only one window is held, however deep the
    volume is.
    """
    total, weight, first = torch.empty(0), torch.empty(0), 0
    for start, window in windows:
        share = window_weights(start, window.shape[1], count, overlap)[:, None, None, None]
        window = share * window
        if start > first:
            done = start - first
            yield total[:, :done] / weight[:done]
            rest = len(weight) - done
            window[:, :rest] += total[:, done:]
            share[:rest] += weight[done:]
        total, weight, first = window, share, start
    yield total / weight


def whole_rows(matrix: Tensor, first: int, last: int) -> Tensor:
    """Numbers of the rows (thick slices) of a profile matrix that lie wholly in columns [first, last)."""
    outside = matrix.clone()
    outside[:, first:last] = 0
    inside = matrix[:, first:last].sum(dim=1)
    return torch.nonzero((outside.sum(dim=1) == 0) & (inside > 0))[:, 0]
