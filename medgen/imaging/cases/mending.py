"""Turn stacks of unevenly placed slices into evenly spaced ones: slices are shifted in plane and resampled along z."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgen.artifacts.stacks import MENDABLE, OFF_GRID
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.geometry import IN_PLACE, DepthMap, Pair, PlaneMap, plan_even, plan_plane
from medgen.imaging.reading.series import SliceStack

LARGEST_GAP = 2.1
"""In usual gaps: one slice is missing, and made up from its neighbours."""
SAME_PIXEL = 0.1
"""Slices shifted by less, in pixels, are not resampled in plane."""


@dataclass(frozen=True)
class Mending:
    """The changes to a stack of D slices."""

    flaws: tuple[str, ...]
    shifts: tuple[Pair, ...]
    """Of each slice against the first, (y, x) in pixels."""
    depth: DepthMap
    spacing: float
    """Of the result, mm."""

    @property
    def lowest(self) -> tuple[int, int]:
        """(y, x) at which the image that holds all shifted slices begins, in pixels of the first slice."""
        return _floor([y for y, _ in self.shifts]), _floor([x for _, x in self.shifts])

    def canvas(self, source: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the image that holds all slices of `source` (H, W)."""
        height, width = source
        (top, left), (down, right) = (
            self.lowest,
            (_floor([-y for y, _ in self.shifts]), _floor([-x for _, x in self.shifts])),
        )
        return height - top - down, width - left - right

    def told(self) -> str:
        """What is done, in words."""
        count = int(made_up(self.depth, self.spacing).sum())
        more = f"; {count} {'slice is' if count == 1 else 'slices are'} interpolated where none was measured"
        return f"{' and '.join(self.flaws)} mended by resampling" + (more if count else "")


def plan_mending(stack: SliceStack) -> Mending | None:
    """How to mend a stack; None if it needs no mending, or cannot be mended (see `obstacle`)."""
    shifts = _shifts(stack)
    flaws = tuple(flaw for flaw in stack.flaws if flaw in MENDABLE)
    if not flaws and _largest(shifts) > OFF_GRID:
        flaws = ("shifted slices",)
    if not flaws or obstacle(stack):
        return None
    spacing = stack.spacing[0]
    if _largest(shifts) < SAME_PIXEL:
        shifts = ((0.0, 0.0),) * len(shifts)
    return Mending(flaws, shifts, plan_even(stack.offsets, spacing), spacing)


def made_up(depth: DepthMap, spacing: float) -> npt.NDArray[np.bool_]:
    """(D',) whether a slice has no measured one near it, that is within half the `spacing`."""
    return depth.distance > (0.5 + IN_PLACE) * spacing


def obstacle(stack: SliceStack) -> str:
    """Why a stack cannot be mended; "" if it can."""
    other = [flaw for flaw in stack.flaws if flaw not in MENDABLE]
    if other:
        return f"slices with {other[0]} cannot be mended"
    gaps = np.diff(stack.offsets)
    if len(gaps) and gaps.max() > LARGEST_GAP * stack.spacing[0]:
        at = int(gaps.argmax())
        missing = round(gaps[at] / stack.spacing[0]) - 1
        return f"{missing} slices are missing behind {stack.slices[at].entry.name}, and no more than one is made up"
    first, shifts = stack.first, _shifts(stack)
    if any(abs(y) > first.rows or abs(x) > first.columns for y, x in shifts):
        return "its slices do not lie above each other"
    return ""


def _shifts(stack: SliceStack) -> tuple[Pair, ...]:
    away = stack.places - stack.places[0]
    _, down, across = np.asarray(stack.direction).reshape(3, 3)
    _, height, width = stack.spacing
    return tuple(zip((away @ down / height).tolist(), (away @ across / width).tolist(), strict=True))


def _largest(shifts: tuple[Pair, ...]) -> float:
    return max(abs(value) for shift in shifts for value in shift)


def _floor(values: list[float]) -> int:
    """The smallest of the values and 0, rounded down to a whole pixel, ignoring rounding errors."""
    return min(0, math.floor(min(values) + 1e-3))


def plane_of(
    stack: SliceStack, mending: Mending | None, size: tuple[int, int] | None, options: PreprocessOptions
) -> PlaneMap:
    """The map of the first slice, mended or not, to `size` (rows, columns) and the spacing of the options."""
    source = stack.first.rows, stack.first.columns
    plane = plan_plane(
        mending.canvas(source) if mending else source,
        (stack.spacing[1], stack.spacing[2]),
        size=size,
        keep_aspect=options.keep_aspect,
        spacing=options.spacing,
    )
    return plane.moved(mending.lowest, source) if mending else plane
