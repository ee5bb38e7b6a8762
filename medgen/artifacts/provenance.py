"""Where an artifact came from: a graph of commands, without times, paths or machines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from medgen import __version__


class ProvenanceStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One command that ran: its name, its settings, its inputs (ids of other steps or of raw sources)."""

    id: str
    command: str
    version: str
    config: dict[str, Any]
    seed: int | None
    inputs: tuple[str, ...]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All steps that led to an artifact, oldest first; the last one made it."""

    steps: tuple[ProvenanceStep, ...]

    @property
    def id(self) -> str:
        """Identifier of the artifact: the digest of the step that made it and of all steps before it."""
        return self.steps[-1].id


class Identified(Protocol):
    """Anything that can be an input: an open set, a model, a raw source."""

    @property
    def provenance(self) -> Provenance:
        """The graph that ends in this input."""

    def digests(self) -> dict[str, str]:
        """Content digests by id, of this input and all its own inputs; complete once it has been read to the end."""


def derive(
    command: str,
    config: dict[str, Any],
    *,
    seed: int | None = None,
    inputs: Iterable[Identified] = (),
    sources: str = "",
) -> Provenance:
    """The provenance of what `command` is about to make from `inputs`.

    `config` must hold neither paths nor anything that does not change the result (device, workers);
    `sources` identifies raw files (see `fingerprint`).
    """
    steps: dict[str, ProvenanceStep] = {}
    parents: list[str] = [sources] if sources else []
    for item in inputs:
        parents.append(item.provenance.id)
        steps.update({step.id: step for step in item.provenance.steps})
    content = msgspec.json.encode([command, __version__, config, seed, parents], order="sorted")
    made = ProvenanceStep(hashlib.sha256(content).hexdigest()[:16], command, __version__, config, seed, tuple(parents))
    steps[made.id] = made
    return Provenance(tuple(steps.values()))


def all_digests(inputs: Iterable[Identified]) -> dict[str, str]:
    """Digests by id of all `inputs` and of everything they were made from."""
    found: dict[str, str] = {}
    for item in inputs:
        found.update(item.digests())
    return found


def fingerprint(parts: Iterable[str | int]) -> str:
    """A short identifier of raw sources, from facts such as sizes; names enter only as part of the hash."""
    joined = "\0".join(str(part) for part in parts)
    return "source-" + hashlib.sha256(joined.encode()).hexdigest()[:16]
