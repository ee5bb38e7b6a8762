"""Join sets: the shards of one job in their order, or different sets one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import msgspec

from medgen.artifacts.provenance import Identified, Provenance, derive
from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.sets import SetReader
from medgen.artifacts.sharding import shard_of, without_shard
from medgen.errors import DataError

_MUST_AGREE = ("kind", "intensity", "vector_fields", "label_names", "latent_scale", "latent_shift", "vae_digest")


def join(
    readers: Sequence[SetReader], names: Sequence[str], *, mixed: bool = False
) -> tuple[SetHeader, list[Identified], Iterator[Case]]:
    """Header, inputs and cases of the joined set; DataError when the sets do not belong together.

    Real and synthetic cases belong together only with `mixed`, or where the job of the shards had both.
    """
    first = readers[0].header
    for reader, name in zip(readers, names, strict=True):
        for field in _MUST_AGREE:
            ours, theirs = getattr(first, field), getattr(reader.header, field)
            if ours != theirs:
                raise DataError(
                    f"{name}: its {field} is {theirs}, that of {names[0]} is {ours}; these cannot be merged"
                )
    shards = [shard_of(reader.header) for reader in readers]
    if any(shard is not None for shard in shards):
        ordered = _in_order(readers, names, shards)
        return without_shard(first), [_Shards(ordered)], _without_repeats(_round_robin(ordered))
    notes = _joined_notes(readers, names)
    header = msgspec.structs.replace(first, provenance=derive("merge", {}, inputs=readers), notes=notes)
    cases = itertools.chain.from_iterable(readers) if mixed else _of_one_kind(readers, names)
    return header, list(readers), _without_repeats(cases)


class _Shards:
    """All shards as the one input they stand for: the digests of the job's inputs, which each shard knows."""

    def __init__(self, readers: Sequence[SetReader]) -> None:
        self._readers = readers

    @property
    def provenance(self) -> Provenance:
        return self._readers[0].provenance

    def digests(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for reader in self._readers:
            found.update(reader.tail.inputs)
        return found


def _in_order(
    readers: Sequence[SetReader], names: Sequence[str], shards: Sequence[tuple[int, int] | None]
) -> list[SetReader]:
    """The readers by shard number; DataError unless each shard of one job is there once."""
    by_part: dict[int, SetReader] = {}
    whole = next(shard[1] for shard in shards if shard is not None)
    job = next(reader.provenance.id for reader, shard in zip(readers, shards, strict=True) if shard is not None)
    for reader, name, shard in zip(readers, names, shards, strict=True):
        if shard is None:
            raise DataError(f"{name}: is no shard, but others are; merge the shards first")
        if shard[1] == whole and (precisions := _unlike_precisions(reader, readers[0])):
            theirs, ours = precisions
            raise DataError(
                f"{name}: was made in {theirs}, {names[0]} in {ours}; make all shards again with one --precision"
            )
        if shard[1] != whole or reader.provenance.id != job:
            raise DataError(f"{name}: is shard {shard[0]}/{shard[1]} of another job than {names[0]}")
        if shard[0] in by_part:
            raise DataError(f"{name}: shard {shard[0]}/{whole} is given twice")
        by_part[shard[0]] = reader
    missing = [str(part) for part in range(whole) if part not in by_part]
    if missing:
        raise DataError(f"incomplete: of {whole} shards, {', '.join(missing)} is missing; run it, then merge again")
    return [by_part[part] for part in range(whole)]


def _unlike_precisions(reader: SetReader, other: SetReader) -> tuple[str, str] | None:
    """The precisions of two shards that differ in nothing else; None if they are of one job, or of two."""
    here, there = reader.provenance.steps[-1], other.provenance.steps[-1]
    both = here.config.get("precision"), there.config.get("precision")
    config = {**there.config, "precision": both[0]}
    alike = msgspec.structs.replace(there, id=here.id, config=config) == here
    return (str(both[0]), str(both[1])) if alike and both[0] != both[1] else None


def _round_robin(readers: Sequence[SetReader]) -> Iterator[Case]:
    """One case from each shard in turn: the inverse of dealing item i to shard i mod N."""
    rest = [iter(reader) for reader in readers]
    while rest:
        for cases in tuple(rest):
            case = next(cases, None)
            if case is None:
                rest.remove(cases)
            else:
                yield case


def _of_one_kind(readers: Sequence[SetReader], names: Sequence[str]) -> Iterator[Case]:
    """The cases of all sets, in order; DataError names the first that is synthetic where others are not."""
    kind = first = ""
    for reader, name in zip(readers, names, strict=True):
        for case in reader:
            made = case.synthetic or "real"
            kind, first = kind or made, first or f"case {case.id} of {name}"
            if made != kind:
                raise DataError(
                    f"{name}: case {case.id} is {made}, {first} is {kind}; to put both into one set, give --allow-mixed"
                )
            yield case


def _joined_notes(readers: Sequence[SetReader], names: Sequence[str]) -> dict[str, str]:
    """The notes of all sets, where they differ as notes on some cases; DataError for maps, which must be made alike."""
    for reader, name in zip(readers, names, strict=True):
        if reader.header.kind == "map" and reader.header.notes != readers[0].header.notes:
            raise DataError(f"{name}: its maps were made otherwise than those of {names[0]}; these cannot be merged")
    keys = dict.fromkeys(key for reader in readers for key in reader.header.notes)
    told = {key: list(dict.fromkeys(reader.header.notes.get(key, "") for reader in readers)) for key in keys}
    return {
        key: texts[0] if len(texts) == 1 else "of some cases: " + "; ".join(filter(None, texts))
        for key, texts in told.items()
    }


def _without_repeats(cases: Iterator[Case]) -> Iterator[Case]:
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise DataError(f"case {case.id}: is in more than one of the sets; drop one of them")
        seen.add(case.id)
        yield case
