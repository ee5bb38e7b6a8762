"""HDF5 files as medgen writes them, and no others: plain datasets, whose values lie in the file and are checksummed.

HDF5 itself can also point to other files (external links and storage, virtual datasets), to other places in the same
file (soft links, references), and to code (filters). A set needs none of this, and a file with any of it is rejected
before its contents are read.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py

from medgen.errors import DataError

TABLE = "case"
"""The one group of a set."""


@contextlib.contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file; on failure its handle is closed silently, so that the first error is the one reported."""
    # Version 1.10 of the format has checksums for HDF5's own tables. Without a chunk cache each write reaches the file,
    # so that a full disk shows at once and not at the end. HDF5's lock is off because we hold one ourselves.
    file = h5py.File(path, "w", libver=("v110", "v110"), rdcc_nbytes=0, locking=False)
    try:
        yield file
        file.flush()
    except BaseException:
        _abandon(file)
        raise
    file.close()


def open_hdf5(path: Path, name: str) -> h5py.File:
    """Open a file for reading; DataError unless it is whole and plain."""
    with read_errors(name):
        file = h5py.File(path, "r", locking=False)  # nothing is ever written into a set that is there
        try:
            _check_plain(file, name)
        except BaseException:
            file.close()
            raise
    return file


_OF_DAMAGE = (OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


LATER = 2.0
"""Seconds by which the time of a changed file differs; less may come from rounding by a file system."""


@dataclass(frozen=True)
class Seen:
    """An open file as it was when it was opened; a file moved to its name does not change it, one copied over it does.

    HDF5 would not notice: what was cut off a file it reads as zeros, whose checksum fits, and another set of the same
    size as if it were the first.
    """

    descriptor: int
    size: int
    time: float
    """Of the last change, in seconds."""

    @classmethod
    def of(cls, file: h5py.File) -> Seen:
        """The file as it is now."""
        descriptor = int(file.id.get_vfd_handle())
        now = os.fstat(descriptor)
        return cls(descriptor, now.st_size, now.st_mtime)

    def changed(self) -> bool:
        """Whether it was written to since."""
        now = os.fstat(self.descriptor)
        return now.st_size != self.size or abs(now.st_mtime - self.time) > LATER


@dataclass
class read_errors:  # noqa: N801 (used like a function)
    """Turn what HDF5 raises for failed checksums (OSError) and damaged tables (many types) into a DataError.

    So is a file that is no longer as it was `seen`.
    """

    name: str
    seen: Seen | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        failed = isinstance(error, _OF_DAMAGE)
        if (failed or error is None) and self.seen is not None and self.seen.changed():
            raise DataError(f"{self.name}: was changed while it was read; run the command again") from error
        if failed:
            raise DataError(f"{self.name}: damaged: HDF5 cannot read it or a checksum fails ({error})") from error


def is_full(dataset: h5py.Dataset) -> bool:
    """Whether all chunks are there; HDF5 returns fill values for missing ones."""
    expected = math.prod(-(-side // step) for side, step in zip(dataset.shape, dataset.chunks, strict=True))
    return bool(dataset.id.get_num_chunks() == expected)


def _check_plain(file: h5py.File, name: str) -> None:
    for group in (file, file[TABLE]) if _is_group(file, TABLE) else (file,):
        for key in group:
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise DataError(f"{name}: '{key}' in it is a link; medgen follows no links")
            kind = group.get(key, getclass=True)
            if group is file and key == TABLE and kind is h5py.Group:
                continue
            if kind is not h5py.Dataset:
                raise DataError(f"{name}: '{key}' in it is not an array; it was not written by medgen")
            if reason := _odd(group[key]):
                raise DataError(
                    f"{name}: '{key}' in it {reason}; medgen reads only what lies in the file as it writes it"
                )


def _is_group(file: h5py.File, key: str) -> bool:
    return isinstance(file.get(key, getlink=True), h5py.HardLink) and file.get(key, getclass=True) is h5py.Group


def _odd(dataset: h5py.Dataset) -> str:
    """In what way a dataset is not one that medgen writes; "" if it is."""
    plan = dataset.id.get_create_plist()
    if plan.get_external_count():
        return "lies in another file"
    if plan.get_layout() != h5py.h5d.CHUNKED:
        return "is virtual" if plan.get_layout() == h5py.h5d.VIRTUAL else "is not chunked"
    text = h5py.check_string_dtype(dataset.dtype) is not None
    if not text and dataset.dtype.kind not in "iufb":
        return f"is of type {dataset.dtype}"
    filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    if filters != ([] if text else [h5py.h5z.FILTER_FLETCHER32]):
        return f"has filters {filters}"
    return ""


def _abandon(file: h5py.File) -> None:
    """Close a file whose content no longer matters.

    HDF5 writes its caches when it closes; on a full disk that fails again and crashes. So the descriptor is first
    redirected to a file in memory, where every write succeeds.
    """
    with contextlib.suppress(Exception):
        if hasattr(os, "memfd_create"):
            sink = os.memfd_create("abandoned")
            os.dup2(sink, file.id.get_vfd_handle())
            os.close(sink)
        file.close()
