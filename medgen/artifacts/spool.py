"""A stack of slices that grows in a temporary file, for results made slab by slab and needed as a whole."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import Array, as_bytes
from medgen.errors import StorageError


class Spool:
    """A `Stack` on disk, filled by `append`, in the folder that TMPDIR names.

    The file has no name, so its space is freed once nothing refers to the spool, however the process ends.
    StorageError if the folder has no room.
    """

    def __init__(self, slice_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._slice_shape = slice_shape
        self._slice_bytes = math.prod(slice_shape) * self.dtype.itemsize
        self._count = 0
        with temporary_storage():
            # Unbuffered, so that a failed write shows in `append`, and not when the file is dropped.
            self._file = tempfile.TemporaryFile(prefix="medgen-", buffering=0)  # noqa: SIM115 (lives as long as we)

    @property
    def shape(self) -> tuple[int, ...]:
        """(slices so far, ...)."""
        return (self._count, *self._slice_shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 1 + len(self._slice_shape)

    def append(self, block: Array) -> None:
        """Put slices (n, ...) after the last one."""
        if block.shape[1:] != self._slice_shape or block.dtype != self.dtype:
            raise ValueError(f"slices {block.shape[1:]} {block.dtype} for a spool of {self._slice_shape} {self.dtype}")
        rest = as_bytes(np.ascontiguousarray(block))
        with temporary_storage():
            while rest:
                rest = rest[self._file.write(rest) :]
        self._count += len(block)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice) -> Array:
        """Slices [start, stop), read from the file."""
        first, last, step = rows.indices(self._count)
        if step != 1:
            raise ValueError("a spool is read slice after slice")
        block = np.empty((max(0, last - first), *self._slice_shape), self.dtype)
        rest, place = as_bytes(block), first * self._slice_bytes
        with temporary_storage():
            while rest:
                got = os.preadv(self._file.fileno(), [rest], place)
                if not got:
                    raise OSError("the temporary file became shorter")
                rest, place = rest[got:], place + got
        return block

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """All slices, in memory."""
        return self[:].astype(dtype or self.dtype, copy=False)


@contextlib.contextmanager
def temporary_storage() -> Iterator[None]:
    """Turn an OSError into a StorageError that names the temporary folder."""
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or os.environ.get("TMPDIR") or "the temporary folder"
        cause = error.strerror or str(error)  # which tells where a folder was looked for
        raise StorageError(
            f"{folder}: a temporary file there failed: {cause}; free some space, or set TMPDIR to a folder that has "
            "some"
        ) from error
