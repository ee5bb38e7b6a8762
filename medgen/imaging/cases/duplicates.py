"""Cases with exactly the same pixels: patients imported twice, or duplicates in a public collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from medgen.imaging.cases.left_out import Place
from medgen.imaging.cases.planning import PlannedCase
from medgen.reporting import Reporter

NAMED = 10  # pairs told one by one; the report has all of them


@dataclass(frozen=True)
class Duplicate:
    """A case, its split, and the first case with these pixels; indices of the plan."""

    case: int
    split: str
    first: int
    first_split: str


@dataclass
class Duplicates:
    """Remembers 16 bytes a case, whatever its size."""

    found: list[Duplicate] = field(default_factory=list)
    _first: dict[bytes, tuple[int, str]] = field(default_factory=dict)

    def add(self, digest: bytes, case: int, split: str) -> bool:
        """Take in a case by the digest of its pixels; returns whether there was already one with the same digest."""
        first, first_split = self._first.setdefault(digest, (case, split))
        if first == case:
            return False
        self.found.append(Duplicate(case, split, first, first_split))
        return True

    def tell(self, cases: Sequence[PlannedCase], reporter: Reporter, *, dropped: bool) -> None:
        """Name the pairs, those across splits first, and how many there are within one."""
        across = [pair for pair in self.found if pair.split != pair.first_split]
        within = len(self.found) - len(across)
        differ = sum(cases[pair.case].annotation.labels != cases[pair.first].annotation.labels for pair in self.found)
        if dropped:
            if self.found:
                reporter.say(f"{len(self.found)} cases were dropped that show exactly the pixels of an earlier one")
        elif across:
            reporter.warn(
                f"{len(across)} cases show exactly the pixels of a case of another split, so that what is measured "
                "there was learned; --drop-duplicates keeps the first of each"
            )
        if within and not dropped:
            reporter.warn(f"{within} cases show exactly the pixels of another case of their split")
        if differ:
            reporter.warn(f"{differ} of the cases with equal pixels are labelled differently")
        named = [*across, *(pair for pair in self.found if pair not in across)]
        for pair in named[:NAMED]:
            one, other = cases[pair.case].stack.name, cases[pair.first].stack.name
            reporter.say(f"equal pixels: {one} ({pair.split}) and {other} ({pair.first_split})")
        if len(named) > NAMED:
            reporter.say(f"... and {len(named) - NAMED} more")

    def placed(self, places: Sequence[Place]) -> list[dict[str, object]]:
        """All pairs, by the places of their cases."""
        return [
            {
                "case": dict(places[pair.case]),
                "split": pair.split,
                "first": dict(places[pair.first]),
                "first_split": pair.first_split,
            }
            for pair in self.found
        ]


def joined(digests: Sequence[bytes]) -> bytes:
    """The digest of a case from those of its parts, in order."""
    return blake2b(b"".join(digests), digest_size=16).digest()
