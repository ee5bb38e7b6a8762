"""One case on its way from thick to thin slices: slice positions, the initial guess, and consistency with the input.

Slices are (.., C, H, W) in *network units*: the model's window is [-1, 1], and values go on beyond it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.schema import Array, Case, Intensity
from medgen.artifacts.spool import Spool
from medgen.diffusion.options import ProfileShape
from medgen.diffusion.slice_profile import cubic_matrix, profile_matrix, pseudo_inverse, resample
from medgen.diffusion.thin_grid import places, scales, spline_matrix, thin_positions, whole_rows
from medgen.errors import DataError
from medgen.inference.sliding import Sliding
from medgen.reporting import Advance

SLAB = 16
"""Thin slices that are finished at once."""
MARGIN = 0.2
"""Within this distance (network units) of the window's ends, the model's word gives way to the interpolation beyond."""
VAGUE = 5.0
"""Variance of a voxel beyond the model's window, relative to one inside."""
ROUNDED = 1e-8
"""Share of the greatest that a float32 sum does not see."""
SMALLEST = 1e-3
"""Width of a window in which float16 tells the 1e-4th part."""
EVEN = 0.01
"""A target spacing within this share of the source's is not finer."""


@dataclass(frozen=True)
class ThinVolume:
    """Geometry of a case and of the thin volume to be made from it, as small matrices along z."""

    case: Case
    intensity: Intensity  # its window is the model's
    spacing: float  # of the thin slices, mm
    thickness: float  # of the thick slices, mm
    profile: ProfileShape = "box"

    @cached_property
    def thick(self) -> Tensor:
        """(M,) positions of the thick slices, mm."""
        return torch.from_numpy(self.case.positions)

    @cached_property
    def thin(self) -> Tensor:
        """(N,) positions of the thin slices, mm."""
        return thin_positions(self.thick, self.thickness, self.spacing)

    @cached_property
    def measuring(self) -> Tensor:
        """(M, N): thin slices -> thick ones."""
        return profile_matrix(self.thick, self.thin, self.thickness, self.profile, self.spacing)

    @cached_property
    def correcting(self) -> Tensor:
        """(N, M): the pseudo-inverse of `measuring`."""
        return pseudo_inverse(self.measuring)

    @cached_property
    def cubic(self) -> Tensor:
        """(N, M): thick slices -> their cubic interpolation."""
        return _banded(cubic_matrix(self.thin, self.thick))

    @cached_property
    def spline(self) -> Tensor:
        """(N, M): thick slices -> the spline that reproduces them when measured."""
        return _banded(spline_matrix(self.thin, self.thick, self.thickness, self.spacing, self.profile))

    @cached_property
    def places(self) -> Tensor:
        """(2, N): the network's input about each position; see `diffusion/thin_grid.py`."""
        return places(self.thin, self.thick, self.thickness, self.spacing)

    @cached_property
    def scales(self) -> Tensor:
        """(3,): the network's input about the lengths; see `diffusion/thin_grid.py`."""
        return scales(self.spacing, self.case.spacing[0], self.thickness)

    def __len__(self) -> int:
        return len(self.thin)

    def measured(self, first: int, last: int) -> Tensor:
        """Thick slices [first, last)."""
        low, high = self.intensity.window
        physical = torch.from_numpy(self.intensity.physical(self.case.stack("image")[first:last]))
        return physical.sub_(low).mul_(2.0 / (high - low)).sub_(1.0)

    def guess(self, first: int, last: int) -> Tensor:
        """Thin slices [first, last), interpolated by the spline."""
        return self.interpolated(self.spline[first:last])

    def interpolated(self, matrix: Tensor) -> Tensor:
        """A matrix (K, M) times the thick slices: (K, C, H, W)."""
        used = _band(matrix)
        return resample(self.measured(used.start, used.stop), matrix[:, used], dim=0)

    def stored(self, values: Tensor) -> Array:
        """Network units -> the values that the case stores, rounded where these are integers."""
        low, high = self.intensity.window
        kind = self.case.stack("image").dtype
        numbers = ((values + 1.0) * (0.5 * (high - low)) + (low - self.intensity.offset)) / self.intensity.scale
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            numbers = numbers.round().clamp(limits.min, limits.max)
        return numbers.numpy().astype(kind)

    def consistent(self, estimate: Iterable[Tensor]) -> Iterator[Tensor]:
        """Slabs (S, n, C, H, W), in order, of a volume close to the estimate that measures exactly as the thick input.

        The estimate comes in slabs (S, n, C, H, W), in order, and is dropped as soon as no correction needs it.
        """
        reach = [self._reach(slice(*ends)) for ends in slabs(len(self))]
        held = Sliding(estimate, dim=1)
        for index, (slab, rows, inner, near, outer) in enumerate(reach):
            held.forget(min(later.start for *_, later in reach[index:]))
            x = held.read(outer.start, outer.stop)
            x = weighted(x, self.measured(near.start, near.stop), self.measuring[near, outer])
            x = x[:, inner.start - outer.start : inner.stop - outer.start]
            missing = self.measured(rows.start, rows.stop) - resample(x, self.measuring[rows, inner], dim=1)
            x = x[:, slab.start - inner.start : slab.stop - inner.start]
            yield x + resample(missing, self.correcting[slab, rows], dim=1)

    def _reach(self, slab: slice) -> tuple[slice, slice, slice, slice, slice]:
        """Thin slices, thick ones that correct them, thin ones that these measure; and once more, for the weighing."""
        rows = _band(self.correcting[slab])
        inner = _hull(_band(self.measuring[rows]), slab)
        near = _hull(_band(self.measuring[:, inner].T), rows)
        return slab, rows, inner, near, _hull(_band(self.measuring[near]), inner)

    def corrected(self, x: Tensor, first: int) -> Tensor:
        """A window x (n, C, H, W) of slices from `first`, corrected by the thick slices that lie wholly in it."""
        last = first + len(x)
        rows = whole_rows(self.measuring, first, last)
        if not len(rows):
            return x
        matrix, measured = self.measuring[rows, first:last], self.measured(int(rows[0]), int(rows[-1]) + 1)
        x = weighted(x[None], measured, matrix)[0]
        return x + resample(measured - resample(x, matrix, dim=0), pseudo_inverse(matrix), dim=0)

    def filled(self, images: Iterable[Tensor], advance: Advance) -> Case:
        """The thin case, from slabs (S, n, C, H, W) of S samples: their mean, and their spread if there are several.

        Its arrays are on disk, in temporary files that are removed with them.
        """
        source, (low, high) = self.case.stack("image"), self.intensity.window
        kind = spread_type(high - low)
        image, spread = Spool(source.shape[1:], source.dtype), Spool(source.shape[1:], kind)
        for slab in images:
            image.append(self.stored(slab.mean(dim=0)))
            if len(slab) > 1:
                spread.append((slab.std(dim=0) * (0.5 * (high - low))).numpy().astype(kind))
            advance(slab.shape[1])
        arrays = {"image": image, "spread": spread} if len(spread) else {"image": image}
        case, shift = self.case, float(self.thin[0] - self.thick[0])
        origin = np.asarray(case.origin) + shift * np.asarray(case.direction[:3])
        return replace(
            case,
            arrays=arrays,
            spacing=(self.spacing, *case.spacing[1:]),
            origin=(float(origin[0]), float(origin[1]), float(origin[2])),
            thickness=self.spacing,
            origins=(),
            filled=(),
            text=(),
            modality=(case.modality[0],) * len(self) if len(set(case.modality)) == 1 else (),
        )


def volume_of(
    case: Case, intensity: Intensity, spacing: float, thickness: float | None, profile: ProfileShape
) -> ThinVolume:
    """The thin volume to be made from `case`; DataError naming the case where that is impossible.

    `thickness` is used where the case gives none; without either, slices are taken to touch.
    """
    source = case.spacing[0]
    if len(case) < 2:
        raise DataError(f"case {case.id}: has one slice; interpolation needs two or more")
    if case.uneven:
        remedy = "preprocess with --mend" if case.mendable else "it cannot be mended"
        raise DataError(f"case {case.id}: {case.uneven}: its slices cannot be interpolated; {remedy}")
    if not (np.isfinite(source) and source > 0):
        raise DataError(f"case {case.id}: does not state its slice distance; preprocess a source that does")
    if spacing > source * (1 - EVEN):
        raise DataError(
            f"case {case.id}: its slices are {source:g} mm apart, and {spacing:g} mm would not refine them; "
            "give a smaller --spacing"
        )
    return ThinVolume(case, intensity, spacing, case.thickness or thickness or source, profile)


def spread_type(width: float) -> type[np.float16 | np.float32]:
    """The type of deviations of values in a window of this width: as small as can be without infinity or zeros."""
    return np.float16 if SMALLEST <= width <= float(np.finfo(np.float16).max) else np.float32


def combine(decoded: Tensor, guess: Tensor) -> Tensor:
    """The model's values inside the window, the interpolation's beyond it; both (.., C, H, W) in network units.

    Within `MARGIN` of the window's ends, the part of the interpolation beyond them is faded in, so that a dark rim in
    tissue does not make a hard edge in air.
    """
    inside = decoded.clamp(-1.0, 1.0)
    low = _fade((inside + 1.0) / MARGIN) * (guess.clamp(max=-1.0) + 1.0)
    high = _fade((1.0 - inside) / MARGIN) * (guess.clamp(min=1.0) - 1.0)
    return inside + low + high


def weighted(x: Tensor, measured: Tensor, matrix: Tensor) -> Tensor:
    """A first correction of x (S, n, C, H, W) towards thick slices (m, C, H, W), largest where x is least certain.

    One step x + W A^T (y - A x) / (A W A^T), with W the variance of a voxel: `VAGUE` beyond the model's window, where
    values come from the spline alone, and 1 inside. It is exact where thick slices share no thin one; the unweighted
    correction after it takes care of what it leaves or overshoots.
    """
    inside = x.clamp(-1.0, 1.0)
    variance = 1.0 + (VAGUE - 1.0) * (_fade((inside + 1.0) / MARGIN) + _fade((1.0 - inside) / MARGIN))
    missing = (measured - resample(x, matrix, dim=1)) / resample(variance, matrix.square(), dim=1).clamp(min=1e-6)
    return x + variance * resample(missing, matrix.T.contiguous(), dim=1)


def _fade(x: Tensor) -> Tensor:
    """1 at 0, 0 from 1 on, smooth in between."""
    x = x.clamp(0.0, 1.0)
    return 1.0 - x * x * (3.0 - 2.0 * x)


def _hull(one: slice, other: slice) -> slice:
    """From the first to the last of two ranges, either of which may be empty."""
    if one.start == one.stop:
        return other
    return slice(min(one.start, other.start), max(one.stop, other.stop)) if other.start < other.stop else one


def slabs(count: int) -> list[tuple[int, int]]:
    """[first, last) ranges of the slices that are finished together."""
    return [(first, min(first + SLAB, count)) for first in range(0, count, SLAB)]


def _banded(matrix: Tensor) -> Tensor:
    """A spline's matrix without its negligible entries: a thick slice has no effect far from its position."""
    return torch.where(matrix.abs() > ROUNDED * matrix.abs().max(), matrix, 0.0)


def _band(matrix: Tensor) -> slice:
    """The columns from the first to the last that are not all zero."""
    used = torch.nonzero((matrix != 0).any(dim=0))[:, 0]
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
