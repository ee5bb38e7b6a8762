"""Whose judgement a model follows: a selector's of new images, or that of experts who rated images of it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.artifacts.provenance import Provenance, derive, fingerprint
from medgen.artifacts.stored import StoredSet
from medgen.errors import InputMissingError
from medgen.feedback.alignment.learner import Reward
from medgen.feedback.alignment.rated import Rated
from medgen.feedback.alignment.sources import Asked
from medgen.feedback.selector.training import match_said
from medgen.imaging.labels.answers import Answers
from medgen.imaging.labels.ratings import REAL, read_ratings
from medgen.inference.conditions import asking
from medgen.inference.conditions.requests import Requests
from medgen.models.condition import PARTS
from medgen.models.selector import Selector
from medgen.models.trained import Denoiser
from medgen.nets.condition import Condition
from medgen.nets.perception.requested import Requested
from medgen.reporting import Reporter


@dataclass(frozen=True)
class Judgement:
    """A selector's file, or a file of ratings and the sets that they are about."""

    selector: Path | None
    ratings: Path | None
    sets: Sequence[str] = ()


@dataclass(frozen=True)
class RawFile:
    """A file that a command reads and medgen did not write, as an input."""

    provenance: Provenance
    digest: str

    @classmethod
    def of(cls, path: Path, role: str) -> RawFile:
        """The file, in the `role` that it has for the command; InputMissingError if it cannot be read."""
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputMissingError(f"{path}: {error.strerror}") from None
        return cls(derive(role, {}, sources=fingerprint([digest])), digest)

    def digests(self) -> dict[str, str]:
        """Its digest by id."""
        return {self.provenance.id: self.digest}


@contextlib.contextmanager
def requests_of(
    denoiser: Denoiser, like: str, conditions: Path | None, seed: int, reporter: Reporter
) -> Iterator[Requests]:
    """What may be asked of a model: the rows of a CSV file, else the conditions of the set `like`, if it takes any."""
    told: dict[str, Path] = {} if conditions is None else {"conditions": conditions}
    if not told and takes_conditions(denoiser):
        told = {"like": Path(like)}
    with asking.Asked(**told).requests(denoiser, seed, reporter) as (requests, _):  # type: ignore[arg-type]
        yield requests


def takes_conditions(denoiser: Denoiser) -> bool:
    """Whether a model was trained under conditions."""
    network = denoiser.network.config
    return any(getattr(network, part.field) for part in PARTS.values())


def asked_of(requests: Requests, mask_names: Sequence[str]) -> Asked:
    """The requests as conditions of the network."""

    def of(numbers: Sequence[int]) -> Condition:
        return requests.condition(numbers, requests.arrays(numbers), mask_names)

    return Asked(range(requests.count), of)


def reward_of(selector: Selector, requests: Requests) -> Reward:
    """The scores of a selector for images of these requests."""

    def reward(images: Tensor, numbers: Sequence[int]) -> Tensor:
        arrays = {name: torch.from_numpy(array) for name, array in requests.arrays(numbers).items()}
        scores = selector.score(images, Requested(**arrays, **requests.told(numbers)))  # type: ignore[arg-type]
        return scores.clone()  # out of inference mode

    return reward


def rated_sets(
    path: Path, sets: Sequence[StoredSet], requests: Sequence[Requests], mask_names: Sequence[str], reporter: Reporter
) -> list[Rated]:
    """The rated cases of `sets`, whose slices show the `requests`, with the scores that experts gave them.

    DataError if a rating is about a case that its set does not have, or none is about these sets.
    """
    matched = match_said(read_ratings(path), sets, path, reporter)
    scores = opinions(matched, sum(len(stored.cases) for stored in sets))
    found, first = [], 0
    for stored, asked in zip(sets, requests, strict=True):
        values = scores[first : first + len(stored.cases)]
        by_case = {row.id: float(one) for row, one in zip(stored.cases, values, strict=True) if np.isfinite(one)}
        found.append(Rated(stored, by_case, asked_of(asked, mask_names).of))
        first += len(stored.cases)
    return found


def opinions(aspects: Mapping[str, Answers], count: int) -> npt.NDArray[np.float64]:
    """Mean score of each of `count` cases over raters and aspects, NaN without any.

    Ratings count from the mean of their rater, comparisons as half a point for one case and against the other.
    """
    total, number = np.zeros(count), np.zeros(count)

    def add(cases: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        np.add.at(total, cases, values)
        np.add.at(number, cases, 1)

    for name, answers in aspects.items():
        if name == REAL:
            continue
        for rater in range(len(answers.raters)):
            of_rater = answers.rater == rater
            if of_rater.any():
                add(answers.case[of_rater], answers.value[of_rater] - answers.value[of_rater].mean())
        add(answers.first, answers.preference - 0.5)
        add(answers.second, 0.5 - answers.preference)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
