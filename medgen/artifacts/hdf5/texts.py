"""Texts in an HDF5 file, as arrays of bytes.

HDF5 keeps its own strings in a heap without checksums: a flipped bit there changes them, or makes the library loop
forever. So a text is stored as an array of bytes, and a column of texts as the bytes of all of them plus the offset at
which each ends. Sets of medgen 0.1 use HDF5's own strings for both.
"""

from __future__ import annotations

import itertools

import h5py

FACTS = ("header", "tail")
"""Single texts of a set."""
ENDS = "_ends"
"""Suffix of the name of the array that says where the texts of a column end."""


def read_fact(file: h5py.File, name: str) -> bytes | None:
    """A single text; None if the file has none of this name."""
    if name in file:
        content: bytes = file[name][...].tobytes()
        return content
    text = file.attrs.get(name)
    return text.encode() if isinstance(text, str) else None


def column_names(group: h5py.Group) -> list[str]:
    """The columns of texts in a group."""
    return [name for name in group if name + ENDS in group or _of_hdf5(group[name])]


def read_texts(group: h5py.Group, name: str, first: int = 0, last: int | None = None) -> list[str]:
    """Rows [first, last) of a column of texts."""
    if _of_hdf5(group[name]):
        return [text.decode() for text in group[name][first:last]]
    ends = group[name + ENDS][max(first - 1, 0) : last].tolist()
    if first == 0:
        ends = [0, *ends]
    content: bytes = group[name][ends[0] : ends[-1]].tobytes() if ends else b""
    return [content[a - ends[0] : b - ends[0]].decode() for a, b in itertools.pairwise(ends)]


def count_texts(group: h5py.Group, name: str) -> int:
    """Rows of a column of texts."""
    return len(group[name] if _of_hdf5(group[name]) else group[name + ENDS])


def _of_hdf5(item: h5py.Dataset | h5py.Group) -> bool:
    return isinstance(item, h5py.Dataset) and h5py.check_string_dtype(item.dtype) is not None
