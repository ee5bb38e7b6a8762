"""Shards: item i of a job belongs to shard i mod N, and the header says which shard a set is.

A shard's provenance is that of the whole job, so that joined shards equal the unsharded result. Where several cases
would have the same id, all but the first are numbered. A shard can number only its own cases, so joining renumbers all.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from typing import TypeVar

import msgspec

from medgen.artifacts.schema import SetHeader

Item = TypeVar("Item")
NOTE = "shard"
_NUMBER = re.compile(r"\.[0-9]+$")


def take_shard(items: Iterable[Item], part: int, whole: int) -> Iterator[Item]:
    """The items of shard `part` of `whole`."""
    return (item for index, item in enumerate(items) if index % whole == part)


def mark_shard(header: SetHeader, part: int, whole: int) -> SetHeader:
    """The header with its shard noted; unchanged if there is only one."""
    if whole == 1:
        return header
    return msgspec.structs.replace(header, notes={**header.notes, NOTE: f"{part}/{whole}"})


def shard_of(header: SetHeader) -> tuple[int, int] | None:
    """(part, whole), or None if the set is not a shard."""
    note = header.notes.get(NOTE)
    if note is None:
        return None
    part, _, whole = note.partition("/")
    return int(part), int(whole)


def part_told(header: SetHeader) -> str:
    """That a set is a shard, in words that follow its name; "" if it is whole."""
    shard = shard_of(header)
    return f"is shard {shard[0]}/{shard[1]}, a part of all cases; merge the shards to use all" if shard else ""


def without_shard(header: SetHeader) -> SetHeader:
    """The header of the whole job."""
    return msgspec.structs.replace(header, notes={key: value for key, value in header.notes.items() if key != NOTE})


def numbered(case_id: str, taken: Container[str]) -> str:
    """The id itself if it is free, else the first free one of `id.2`, `id.3`, ..."""
    name, number = case_id, 1
    while name in taken:
        number += 1
        name = f"{_NUMBER.sub('', case_id)}.{number}"
    return name
