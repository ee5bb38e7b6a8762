"""Slices that need not be in memory: what arrays, temporary files and datasets have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
