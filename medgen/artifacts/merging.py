"""Join sets: the shards of one job in their order, or different sets one after the other."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from medgen.artifacts.label_maps import mask_names
from medgen.artifacts.provenance import Identified, Provenance, derive
from medgen.artifacts.schema import GENERATED, Case, SetHeader, as_bytes
from medgen.artifacts.sets import SetReader
from medgen.artifacts.sharding import numbered, shard_of, without_shard
from medgen.artifacts.stacks import Stack, blocks
from medgen.errors import DataError, UsageError

# Ids that preprocess makes: an optional part for the patient, one for the pixels, and an optional number.
_ID = re.compile(r"(?:[0-9a-f]{12}-)?([0-9a-f]{16})(?:\.[0-9]+)?")
ORIGIN = 8
"""Digits of a provenance's id that are put behind the ids of cases; a sample's own number has fewer."""
_BEHIND = re.compile(rf"-[0-9a-f]{{{ORIGIN}}}(\.[0-9]+)?$")
"""What is put behind the id of a generated case."""
_MUST_AGREE = (
    "kind",
    "intensity",
    "vector_fields",
    "label_names",
    "mask_names",
    "latent_scale",
    "latent_shift",
    "vae_digest",
)


def join(
    readers: Sequence[SetReader],
    names: Sequence[str],
    *,
    mixed: bool = False,
    drop: bool = False,
    renamed: Counter[tuple[str, str]] | None = None,
) -> tuple[SetHeader, list[Identified], Iterator[Case]]:
    """Header, inputs and cases of the joined set; DataError if the sets cannot be joined.

    Real and synthetic cases can be joined only with `mixed`, or if the job that made the shards had both. Where cases
    of different sets show the same pixels, only one may stay: `drop` leaves out all but the first. Generated cases of
    several runs have the same ids for different images; all but the first then get the id of their set's provenance
    behind theirs, and `renamed` counts them by the name of their set and what is behind. Of shards, which are
    joined as they are, nothing can be dropped: UsageError.
    """
    first = readers[0].header
    for reader, name in zip(readers, names, strict=True):
        for field in _MUST_AGREE:
            ours, theirs = _told(first, field), _told(reader.header, field)
            if ours != theirs:
                raise DataError(
                    f"{name}: its {field} is {theirs}, that of {names[0]} is {ours}; these cannot be merged"
                )
    shards = [shard_of(reader.header) for reader in readers]
    if any(shard is not None for shard in shards):
        if drop:
            raise UsageError(
                "--drop-duplicates: shards are joined as they are; leave it out, or give it to one preprocess of all"
            )
        ordered = _in_order(readers, names, shards)
        return without_shard(first), [_Shards(ordered)], _renumbered(_round_robin(ordered))
    notes = _joined_notes(readers, names)
    header = msgspec.structs.replace(first, provenance=derive("merge", {}, inputs=readers), notes=notes)
    found = ((case, name) for reader, name in zip(readers, names, strict=True) for case in reader)
    origins = {name: reader.provenance.id[:ORIGIN] for reader, name in zip(readers, names, strict=True)}
    counts: Counter[tuple[str, str]] = Counter() if renamed is None else renamed
    cases = _apart(found if mixed else _of_one_kind(found), first.kind, origins, counts, drop=drop)
    return header, list(readers), cases if all(map(_scored, readers)) else map(_without_scores, cases)


def _scored(reader: SetReader) -> bool:
    """Whether a set went through `select`, which gives every case a score."""
    return any(step.command == "select" for step in reader.header.provenance.steps)


def _without_scores(case: Case) -> Case:
    """The case without a selector's score, which not all cases of the joined set have."""
    arrays = {name: stack for name, stack in case.arrays.items() if name != "quality"}
    return case if len(arrays) == len(case.arrays) else replace(case, arrays=arrays)


def _told(header: SetHeader, field: str) -> object:
    """A field of a header; for masks without names, the names that their values imply."""
    return mask_names(header) if field == "mask_names" else getattr(header, field)


class _Shards:
    """All shards as one input, with the digests of the job's inputs, which each shard knows."""

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
    """The readers by shard number; DataError unless each shard of one job is there exactly once."""
    by_part: dict[int, SetReader] = {}
    whole = next(shard[1] for shard in shards if shard is not None)
    job = next(reader.provenance.id for reader, shard in zip(readers, shards, strict=True) if shard is not None)
    for reader, name, shard in zip(readers, names, shards, strict=True):
        if shard is None:
            raise DataError(f"{name}: is not a shard, but others are; merge the shards first")
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
    """The precisions of two shards, if they differ in nothing else; None if they are alike or differ in more."""
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


def _renumbered(cases: Iterator[Case]) -> Iterator[Case]:
    """The cases of shards; those whose id is already taken get the number that the unsharded job would give them."""
    seen: set[str] = set()
    for case in cases:
        name = numbered(case.id, seen) if _ID.fullmatch(case.id) else case.id
        if name in seen:
            raise DataError(f"case {case.id}: is in more than one of the shards; make them again")
        seen.add(name)
        yield replace(case, id=name)


Named = tuple[Case, str]
"""A case, and what its set is called."""


def _of_one_kind(cases: Iterator[Named]) -> Iterator[Named]:
    """All cases; DataError naming the first that is not real, generated or altered as the others are."""
    kind = first = ""
    for case, name in cases:
        made = case.synthetic or "real"
        kind, first = kind or made, first or f"case {case.id} of {name}"
        if made != kind:
            raise DataError(
                f"{name}: case {case.id} is {made}, {first} is {kind}; to put both into one set, give --allow-mixed"
            )
        yield case, name


def _apart(
    cases: Iterator[Named], kind: str, origins: Mapping[str, str], renamed: Counter[tuple[str, str]], *, drop: bool
) -> Iterator[Case]:
    """The cases. One with the same pixels as a case of another set is left out with `drop`, else a DataError.

    A generated one that only shares its id with others gets that of its set's provenance behind it.
    """
    seen: dict[str, tuple[str, str, str]] = {}
    ids: set[str] = set()
    generated: dict[str, dict[bytes, tuple[str, str]]] = {}  # by id and digest of the pixels: the first such case
    for case, name in cases:
        match = _ID.fullmatch(case.id)
        pixels = match[1] if match else case.id
        before, where, split = seen.setdefault(pixels, (case.id, name, case.split))
        if where != name and match:
            if drop:
                continue
            raise DataError(
                f"{name}: case {case.id} ({case.split}) shows the pixels of case {before} ({split}) of {where}; "
                "--drop-duplicates keeps the first of such cases"
            )
        if case.synthetic == GENERATED:
            alike, digest = generated.setdefault(_BEHIND.sub("", case.id), {}), _digest(case.stack(kind))
            known = alike.get(digest)
            if known is not None and (known[1] != name or case.id in ids):
                if drop:
                    continue
                raise DataError(
                    f"{name}: case {case.id} shows the pixels of case {known[0]} of {known[1]}; "
                    "--drop-duplicates keeps the first of such cases"
                )
            alike[digest] = (case.id, name)
            if case.id in ids:
                case = replace(case, id=numbered(f"{case.id}-{origins[name]}", ids))
                renamed[name, origins[name]] += 1
        if case.id in ids:
            raise DataError(f"case {case.id}: is in more than one of the sets; drop one of them")
        ids.add(case.id)
        yield case


def _digest(stack: Stack) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for block in blocks(stack):
        found.update(as_bytes(block))
    return found.digest()


def _joined_notes(readers: Sequence[SetReader], names: Sequence[str]) -> dict[str, str]:
    """The notes of all sets; differing ones are marked as those of some cases. DataError for maps, which must agree."""
    for reader, name in zip(readers, names, strict=True):
        if reader.header.kind == "map" and reader.header.notes != readers[0].header.notes:
            raise DataError(f"{name}: its maps were made differently from those of {names[0]}; these cannot be merged")
    keys = dict.fromkeys(key for reader in readers for key in reader.header.notes)
    told = {key: list(dict.fromkeys(reader.header.notes.get(key, "") for reader in readers)) for key in keys}
    return {
        key: texts[0] if len(texts) == 1 else "of some cases: " + "; ".join(filter(None, texts))
        for key, texts in told.items()
    }
