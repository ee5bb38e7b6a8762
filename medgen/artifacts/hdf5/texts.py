"""Checksums of the texts in an HDF5 file: strings of variable length, which no filter of HDF5 can protect."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import msgspec

from medgen.artifacts.hdf5.plain import TABLE
from medgen.errors import DataError

CHECKSUMS = "checksums"
"""The attribute that holds them."""
_AT_ONCE = 1 << 16


def text_checksum(texts: Iterable[str | bytes], before: int = 0) -> int:
    """CRC-32 of texts that follow others with the checksum `before`; each is ended by a zero byte."""
    encoded = (text.encode() if isinstance(text, str) else text for text in texts)
    return zlib.crc32(b"".join(text + b"\0" for text in encoded), before)


def check_texts(file: h5py.File, name: str) -> bool:
    """Whether a set has checksums of its texts; DataError if one does not match. Sets of medgen 0.1 have none."""
    if CHECKSUMS not in file.attrs:
        return False
    stated = msgspec.json.decode(file.attrs[CHECKSUMS], type=dict[str, int])
    found = {key: text_checksum([file.attrs[key]]) for key in ("header", "tail")}
    for key, dataset in [*_datasets(file, ""), *_datasets(file.get(TABLE, {}), f"{TABLE}/")]:
        if h5py.check_string_dtype(dataset.dtype) is not None:
            found[key] = 0
            for first in range(0, len(dataset), _AT_ONCE):
                found[key] = text_checksum(dataset[first : first + _AT_ONCE], found[key])
    for key in sorted(stated.keys() | found.keys()):
        if stated.get(key) != found.get(key):
            raise DataError(f"{name}: damaged: '{key}' in it does not match its checksum; copy the file again")
    return True


def _datasets(group: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, h5py.Dataset]]:
    return ((prefix + key, item) for key, item in group.items() if isinstance(item, h5py.Dataset))
