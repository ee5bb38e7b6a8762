"""How items that fail are handled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from medgen.errors import DataError
from medgen.imaging.reading.archive import Entry
from medgen.reporting import Reporter

Place = dict[str, int]
"""An item by numbers from 1, in the order of the command line and of names: a `source` and the `file` in it, a `row` of
the table, an annotation `xml`. File names, often those of patients, appear only in messages to the user."""


@dataclass
class LeftOut:
    """The failures: raised at once, or with `keep_going` reported and collected."""

    reporter: Reporter
    keep_going: bool
    reasons: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    _files: dict[Entry, int] = field(default_factory=dict)

    def number(self, entries: Sequence[Entry]) -> None:
        """Take in the files of all sources, in their order."""
        counts: Counter[int] = Counter()
        for entry in entries:
            counts[entry.source] += 1
            self._files[entry] = counts[entry.source]

    def place(self, entry: Entry) -> Place:
        """Where a file is."""
        return {"source": entry.source + 1, "file": self._files[entry]}

    def add(self, reason: str, place: Place) -> None:
        """Record that one item failed for this reason."""
        if not self.keep_going:
            raise DataError(f"{reason} (--keep-going leaves such items out)")
        self.reasons.append(reason)
        self.places.append(place)
        self.reporter.warn(f"left out: {reason}")
