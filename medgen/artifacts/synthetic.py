"""Which cases a model made or changed: a fact of each case that commands pass on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

import msgspec

from medgen.artifacts.schema import ALTERED, GENERATED, SET_SCHEMA, SetHeader

_DESCRIBED = {
    GENERATED: "SYNTHETIC image made by a generative model",
    ALTERED: "SYNTHETIC image: a real one changed by a generative model",
}
_OLD_SCHEMA = "medgen.set/1"
_OLD_NOTE = "synthetic"


class Told(Protocol):
    """A case, or its row in a table."""

    @property
    def synthetic(self) -> str:
        """As in `Case`."""


def altered(synthetic: str) -> str:
    """The fact after a model has changed the pixels: generated cases stay generated."""
    return synthetic or ALTERED


def describe(synthetic: str) -> str:
    """What exported files say about themselves, in one ASCII line below 80 characters; "" for a real image."""
    return _DESCRIBED.get(synthetic, "")


def told_by(text: str) -> str:
    """The inverse of `describe`: the fact, from a text that came with an image."""
    return next((kind for kind, told in _DESCRIBED.items() if text.startswith(told)), "")


def counted(cases: Iterable[Told]) -> dict[str, int]:
    """How many cases are real (`no`), generated and altered; kinds without cases are left out."""
    return dict(sorted(Counter(case.synthetic or "no" for case in cases).items()))


def synthetic_in_old_set(header: SetHeader, case_id: str) -> str:
    """The fact of a case in a set of version 0.1, from the set's notes and from the ids that `generate` gave."""
    if header.schema != _OLD_SCHEMA:
        return ""
    note = header.notes.get(_OLD_NOTE, "")
    generated = any(step.command == "generate" for step in header.provenance.steps)
    if note == "yes" or (generated and case_id.startswith("sample-")):
        return GENERATED
    return ALTERED if note or "generative model" in header.notes.get("interpolated", "") else ""


def renewed(header: SetHeader) -> SetHeader:
    """The header as this version writes it."""
    notes = {key: text for key, text in header.notes.items() if key != _OLD_NOTE}
    return msgspec.structs.replace(header, notes=notes, schema=SET_SCHEMA)
