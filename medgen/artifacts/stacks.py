"""Slices that need not be in memory (arrays, temporary files, datasets), and their positions in space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.float64]
Point = tuple[float, float, float]

MENDABLE = ("uneven gaps", "gantry tilt")
"""Flaws that resampling mends."""
OFF_GRID = 0.5
"""Voxels by which a slice may lie off an even grid and still count as being on it."""
SAME_PLACE = 0.01
"""Slices closer than this, in mm, to their places on the even grid need no origins of their own."""
BLOCK = 4 << 20
"""Bytes of a stack that are in memory at once while it is copied."""


class Stack(Protocol):
    """D slices, in memory (any array is a stack) or not; `stack[first:last]` is an array of some of them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, ...)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]: ...

    def __array__(self) -> npt.NDArray[Any]: ...


def block_length(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Slices that make a `BLOCK` of a stack (D, ...), at least one."""
    return max(1, BLOCK // max(1, math.prod(shape[1:]) * dtype.itemsize))


def blocks(stack: Stack) -> Iterator[npt.NDArray[Any]]:
    """All slices in order, some at a time, as contiguous arrays."""
    count = block_length(stack.shape, stack.dtype)
    for first in range(0, len(stack), count):
        yield np.ascontiguousarray(stack[first : first + count])


class Placed:
    """The geometry that a case and its row in a set's table share; `Case` explains the fields."""

    spacing: Point
    origin: Point
    direction: tuple[float, ...]
    origins: tuple[Point, ...]
    flaws: str

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def slice_origins(self) -> Positions:
        """(D, 3) centre of the first voxel of each slice, LPS mm."""
        if self.origins:
            return np.array(self.origins)
        return even_origins(self.origin, self.axes[0], self.spacing[0], len(self))

    @property
    def axes(self) -> Positions:
        """(3, 3) unit vectors of the z, y and x axes, one per row."""
        return np.asarray(self.direction, np.float64).reshape(3, 3)

    @property
    def positions(self) -> Positions:
        """(D,) slice centres along the z axis, mm from the origin of the frame of reference."""
        if self.origins:
            heights: Positions = self.slice_origins @ self.axes[0]
            return heights
        return float(self.axes[0] @ np.asarray(self.origin)) + self.spacing[0] * np.arange(len(self), dtype=np.float64)

    @property
    def misplaced(self) -> Positions:
        """(3,) largest distance of a slice from its place on the even grid, along z, y and x, in voxels."""
        if not self.origins:
            return np.zeros(3)
        even = even_origins(self.origin, self.axes[0], self.spacing[0], len(self))
        aside: Positions = np.abs((self.slice_origins - even) @ self.axes.T).max(axis=0) / np.asarray(self.spacing)
        return aside

    @property
    def uneven(self) -> str:
        """Why the slices are not on an even grid, in words; "" if they are."""
        aside = float(self.misplaced.max())
        return self.flaws or (f"a slice lies {aside:.1f} voxels off an even grid" if aside > OFF_GRID else "")

    @property
    def mendable(self) -> bool:
        """Whether resampling can put unevenly spaced slices onto an even grid."""
        return not self.flaws or set(self.flaws.split(", ")) <= set(MENDABLE)


def even_origins(origin: npt.ArrayLike, normal: npt.ArrayLike, spacing: float, count: int) -> Positions:
    """(count, 3) places `spacing` apart along `normal`."""
    steps = np.arange(count, dtype=np.float64)[:, None]
    return np.asarray(origin, np.float64) + steps * spacing * np.asarray(normal, np.float64)


def uneven_origins(origins: Positions, normal: npt.ArrayLike, spacing: float) -> tuple[Point, ...]:
    """`origins` (D, 3) if they are not on an even grid from the first one; () if they are."""
    even = even_origins(origins[0], normal, spacing, len(origins))
    if np.abs(origins - even).max() <= SAME_PLACE:
        return ()
    return points(origins)


def points(origins: Any) -> tuple[Point, ...]:
    """Rows of three numbers as tuples."""
    return tuple((float(x), float(y), float(z)) for x, y, z in origins)
