"""`select`: scores the cases of a set, and chooses which of them to keep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from medgen.artifacts.classes import class_called
from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import TEXT_NAMES, Case, SetHeader
from medgen.artifacts.sharding import shard_of
from medgen.artifacts.stored import StoredSet
from medgen.config import did_you_mean
from medgen.errors import DataError, UsageError
from medgen.feedback.selector.describing import SLICES, describe_some
from medgen.inference.slices import Refused
from medgen.models.selector import Selector
from medgen.reporting import Advance, unseen

DIGITS = 4
"""Decimals of stored scores: further ones differ between processors."""
NOTE = "quality"
Rank = Callable[[Sequence[float], Sequence[str]], set[int]]
"""From the scores and kinds of all cases to the indices of those to keep."""


@dataclass
class Judge:
    """Scores the cases of one set with a selector, and yields those to keep."""

    selector: Selector
    header: SetHeader
    name: str
    """What the set is called in messages."""
    aspect: str
    """The aspect it scores by; empty: all that the selector can judge."""
    refused: Refused
    """Called with each case that cannot be judged, and why."""
    advance: Advance = unseen
    scores: list[float] = field(default_factory=list)
    """Scores of the cases judged so far, in order, from 1 to 5."""

    def __post_init__(self) -> None:
        self.selector.known(self.aspect)
        refuse_shard(self.header, self.name)

    def least(self, cases: Iterable[Case], score: float) -> Iterator[Case]:
        """The cases with at least this score (1 to 5), each with its score; a few are judged at a time."""
        return (with_quality(case, own) for case, own in self.judged(cases) if own >= score)

    def ranked(self, stored: StoredSet, rank: Rank, field: str = "") -> Iterator[Case]:
        """The cases that `rank` chooses by all scores and, in `field`, their kinds; in the set's order."""
        ids, kinds = [], []
        for case, _ in self.judged(stored):
            ids.append(case.id)
            kinds.append(kind_of(case, field, self.header) if field else "")
        if field and not any(kinds):
            raise UsageError(f"--per: no case of the set has a {field}")
        chosen = {ids[number]: self.scores[number] for number in rank(self.scores, kinds)}
        for number, row in enumerate(stored.cases):
            if row.id in chosen:
                yield with_quality(stored.case(number), chosen[row.id])

    def judged(self, cases: Iterable[Case]) -> Iterator[tuple[Case, float]]:
        """The cases with their scores; those that cannot be judged are passed to `refused`."""
        for some in _a_few(cases):
            for case, score in zip(some, self._scores(some), strict=True):
                if isinstance(score, DataError):
                    self.refused(case, score)
                    continue
                self.scores.append(score)
                self.advance(len(case))
                yield case, score

    def _scores(self, cases: Sequence[Case]) -> list[float | DataError]:
        """The rating to expect for each case, from 1 to 5, or why it cannot be judged."""
        try:
            for case in cases:
                intensity = self.selector.check(self.header, case.arrays, self.name)
            described = describe_some(cases, intensity, self.selector.facts.parts, self.selector.describe)
        except DataError as error:
            return [error] if len(cases) == 1 else [score for case in cases for score in self._scores([case])]
        scores = (self.selector.judged(*(one[None] for one in features)) for features in described)
        return [round(float(self.selector.combined(one, self.aspect)[0]), DIGITS) for one in scores]


def _a_few(cases: Iterable[Case]) -> Iterator[list[Case]]:
    """The cases, as many at a time as have SLICES slices together, and one at least."""
    some: list[Case] = []
    for case in cases:
        if some and sum(map(len, some)) + len(case) > SLICES:
            yield some
            some = []
        some.append(case)
    if some:
        yield some


def refuse_shard(header: SetHeader, name: str) -> None:
    """DataError for a shard: selecting from it keeps other cases than selecting from the whole set would."""
    if shard := shard_of(header):
        told = f"is shard {shard[0]}/{shard[1]} of a set; merge the shards, and select from the whole"
        raise DataError(f"{name}: {told}")


def with_quality(case: Case, score: float) -> Case:
    """The case with its score as the array `quality` (D,) float32."""
    return replace(case, arrays={**case.arrays, "quality": np.full(len(case), score, np.float32)})


def best(scores: Sequence[float], count: int) -> set[int]:
    """Indices of the `count` highest scores; of equal ones, the first."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    return set(order[:count].tolist())


def best_share(share: float) -> Rank:
    """Choose this share of all cases, rounded to a whole number of at least one, by the highest scores."""
    return lambda scores, kinds: best(scores, max(int(share * len(scores) + 0.5), 1))


def best_of_each(count: int) -> Rank:
    """Choose the `count` highest scores of each kind."""

    def rank(scores: Sequence[float], kinds: Sequence[str]) -> set[int]:
        members: defaultdict[str, list[int]] = defaultdict(list)
        for number, kind in enumerate(kinds):
            members[kind].append(number)
        return {rows[one] for rows in members.values() for one in best([scores[row] for row in rows], count)}

    return rank


def kind_of(case: Case, field: str, header: SetHeader) -> str:
    """A case's value of a field: modality, text, label, or a field of the vector; UsageError for others."""
    if field in TEXT_NAMES:
        values = getattr(case, field)
        return str(values[0]) if values else ""
    if field == "label" and "label" in case.arrays:
        return class_called(header, int(case["label"][0]))
    if field in header.vector_fields:
        return f"{case['vector'][0, header.vector_fields.index(field)]:g}"
    known = [*TEXT_NAMES, *(["label"] if "label" in case.arrays else []), *header.vector_fields]
    hint = did_you_mean(field, known, f"it has {', '.join(known)}")
    raise UsageError(f"--per: the set has no '{field}'{hint}")


def selected_header(judge: Judge, provenance: Provenance) -> SetHeader:
    """The header of the selected set, with a note that names the selector."""
    told = f"the rating to expect by the selector {judge.selector.model.digest[:12]}"
    told += f", {judge.aspect}" if judge.aspect else ""
    return msgspec.structs.replace(judge.header, provenance=provenance, notes={**judge.header.notes, NOTE: told})
