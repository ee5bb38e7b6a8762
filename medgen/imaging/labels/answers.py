"""Ratings as numbers, matched with the cases that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.imaging.labels.ratings import Ratings, set_name

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What was answered about one aspect: N ratings and M comparisons. Raters and cases are given by number."""

    raters: tuple[str, ...]
    rater: Rows
    """(N,) who rated."""
    case: Rows
    """(N,) which case."""
    value: Values
    """(N,) from 1 to 5; of the aspect `real` 0 or 1."""
    judge: Rows
    """(M,) who compared."""
    first: Rows
    """(M,) a case."""
    second: Rows
    """(M,) the case that it was compared with."""
    preference: Values
    """(M,) 1 if the first one is better, 0 if the second one is, 0.5 for a tie."""

    def __len__(self) -> int:
        """Ratings and comparisons."""
        return len(self.value) + len(self.preference)

    def among(self, cases: npt.NDArray[np.bool_]) -> Answers:
        """The ratings of the chosen cases, and the comparisons whose two cases are both chosen; `cases` (C,)."""
        rated, compared = cases[self.case], cases[self.first] & cases[self.second]
        return Answers(
            self.raters,
            self.rater[rated],
            self.case[rated],
            self.value[rated],
            self.judge[compared],
            self.first[compared],
            self.second[compared],
            self.preference[compared],
        )

    def renumbered(self, cases: Rows) -> Answers:
        """The same with cases given by their place among `cases` (C,), which are in order."""
        places = (np.searchsorted(cases, one).astype(np.int64) for one in (self.case, self.first, self.second))
        case, first, second = places
        return replace(self, case=case, first=first, second=second)

    def cases(self) -> Rows:
        """The cases that were rated or compared, in order, each once."""
        return np.unique(np.concatenate([self.case, self.first, self.second]))


@dataclass(frozen=True)
class Matched:
    """The ratings of some sets, whose cases are numbered through, one set after the other."""

    aspects: dict[str, Answers]
    elsewhere: int
    """Ratings that are about other sets."""


def match(ratings: Ratings, sets: Sequence[StoredSet], name: str) -> Matched:
    """The ratings in the file called `name` that are about these sets.

    DataError if there are none, or if one is about a case that its set does not have.
    """
    places: dict[str, dict[str, int]] = {}
    count = 0
    for stored in sets:
        here = places.setdefault(set_name(stored.tail.digest), {})
        for row in stored.cases:
            here.setdefault(row.id, count)
            count += 1
    raters = tuple(sorted({key[1] for key in ratings.values if key[0] in places}))
    rows: dict[str, list[tuple[int, int, int | None, float]]] = {}
    for (of_set, rater, case, other, aspect), value in ratings.values.items():
        if of_set not in places:
            continue
        numbers = [_place(places[of_set], one, name) for one in (case, other) if one]
        answer = raters.index(rater), numbers[0], numbers[1] if other else None, value
        rows.setdefault(aspect, []).append(answer)
    if not rows:
        found = sorted({key[0] for key in ratings.values})
        told = f"they are about the sets {', '.join(found)}, and this one is " if found else "it holds none at all; "
        raise DataError(f"{name}: no rating is about this set; {told}{', '.join(places)}")
    aspects = {aspect: _answers(raters, rows[aspect]) for aspect in sorted(rows)}
    return Matched(aspects, len(ratings.values) - sum(map(len, aspects.values())))


def _place(cases: Mapping[str, int], case: str, name: str) -> int:
    if case not in cases:
        raise DataError(f"{name}: rates case {case}, which the set does not have; delete its lines")
    return cases[case]


def _answers(raters: tuple[str, ...], rows: Sequence[tuple[int, int, int | None, float]]) -> Answers:
    rated = [(rater, case, value) for rater, case, other, value in rows if other is None]
    compared = [(rater, case, other, value) for rater, case, other, value in rows if other is not None]
    ratings, comparisons = _columns(rated, 3), _columns(compared, 4)
    rater, case = ratings[:2].astype(np.int64)
    judge, first, second = comparisons[:3].astype(np.int64)
    return Answers(raters, rater, case, ratings[2], judge, first, second, comparisons[3])


def _columns(rows: Sequence[tuple[float, ...]], count: int) -> Values:
    return np.array(rows, np.float64).reshape(-1, count).T
