"""A stack of which only a part is in memory: slices arrive in order, are read a few at a time, and are dropped."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Sliding:
    """Slices along axis `dim` of slabs that are made on demand; forgotten slices are freed."""

    def __init__(self, slabs: Iterable[Tensor], dim: int = 0) -> None:
        self._slabs, self._dim = iter(slabs), dim
        self._held: Tensor | None = None
        self._start = self._stop = 0

    def read(self, first: int, last: int) -> Tensor:
        """Slices [first, last), at least one; IndexError if some were forgotten."""
        if first < self._start:
            raise IndexError(f"slice {first} was forgotten; the first that is held is {self._start}")
        parts = [] if self._held is None else [self._held]
        while self._stop < last:
            parts.append(next(self._slabs))
            self._stop += parts[-1].shape[self._dim]
        if len(parts) > 1 or self._held is None:
            self._held = torch.cat(parts, self._dim)
        return self._held.narrow(self._dim, first - self._start, last - first)

    def forget(self, before: int) -> None:
        """Drop the slices before this one."""
        if self._held is not None and before > self._start:
            self._held = self._held.narrow(self._dim, before - self._start, self._stop - before).clone()
            self._start = before
