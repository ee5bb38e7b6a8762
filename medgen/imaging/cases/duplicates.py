"""Cases with exactly the same pixels: patients imported twice, or duplicates in a public collection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec

from medgen.imaging.cases.left_out import Place
from medgen.imaging.remembered import Remembered
from medgen.reporting import Reporter

NAMED = 10  # pairs told one by one; the report has all of them


@dataclass(frozen=True)
class Duplicate:
    """A case, its split, and the first case with these pixels; by their numbers."""

    case: int
    split: str
    first: int
    first_split: str
    labels_differ: bool = False


@dataclass
class Duplicates:
    """Remembers a digest a case, whatever its size, and whatever their number."""

    found: list[Duplicate] = field(default_factory=list)
    _first: Remembered = field(default_factory=Remembered)

    def add(self, digest: bytes, case: int, split: str, labels: str = "") -> bool:
        """Take in a case by the digest of its pixels; returns whether there was already one with the same digest."""
        told = self._first.first(digest, msgspec.json.encode((case, split, labels)).decode())
        first, first_split, first_labels = msgspec.json.decode(str(told), type=tuple[int, str, str])
        if first == case:
            return False
        self.found.append(Duplicate(case, split, first, first_split, labels != first_labels))
        return True

    def tell(self, name: Callable[[int], str], reporter: Reporter, *, dropped: bool) -> None:
        """Name the pairs, those across splits first, and how many there are within one; `name` names a case."""
        across = [pair for pair in self.found if pair.split != pair.first_split]
        within = len(self.found) - len(across)
        differ = sum(pair.labels_differ for pair in self.found)
        if dropped:
            if self.found:
                reporter.say(f"{len(self.found)} cases were dropped that show exactly the pixels of an earlier one")
        elif across:
            reporter.warn(
                f"{len(across)} cases show exactly the pixels of a case of another split, so a model would be tested "
                "on what it learned from; --drop-duplicates keeps the first of each"
            )
        if within and not dropped:
            reporter.warn(f"{within} cases show exactly the pixels of another case of their split")
        if differ:
            reporter.warn(f"{differ} of the cases with equal pixels are labelled differently")
        named = [*across, *(pair for pair in self.found if pair not in across)]
        for pair in named[:NAMED]:
            reporter.say(f"equal pixels: {name(pair.case)} ({pair.split}) and {name(pair.first)} ({pair.first_split})")
        if len(named) > NAMED:
            reporter.say(f"... and {len(named) - NAMED} more")

    def placed(self, place: Callable[[int], Place]) -> list[dict[str, object]]:
        """All pairs, by the places of their cases."""
        return [
            {
                "case": dict(place(pair.case)),
                "split": pair.split,
                "first": dict(place(pair.first)),
                "first_split": pair.first_split,
            }
            for pair in self.found
        ]


def joined(digests: Sequence[bytes]) -> bytes:
    """The digest of a case from those of its parts, in order."""
    return blake2b(b"".join(digests), digest_size=16).digest()
