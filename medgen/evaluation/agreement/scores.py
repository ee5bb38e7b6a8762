"""How often what a probe sees in images is what their texts say, beside chance and beside real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.evaluation.intervals import share_interval

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """Answers (N, questions) that texts give, -1 where they give none, and those that the probe gives."""

    said: Rows
    seen: Rows
    cases: Rows

    def __getitem__(self, rows: Rows | Flags) -> Answers:
        """Some of them."""
        return Answers(self.said[rows], self.seen[rows], self.cases[rows])

    def known(self, places: Sequence[int]) -> Flags:
        """Which texts answer all questions at these places, (N,)."""
        return np.asarray((self.said[:, list(places)] >= 0).all(axis=1))

    def right(self, places: Sequence[int]) -> Flags:
        """Where all these answers are as said, (N,)."""
        return np.asarray((self.said[:, list(places)] == self.seen[:, list(places)]).all(axis=1))


def agreement(answers: Answers, places: Sequence[int]) -> dict[str, Any] | None:
    """The share of images on whose answers to all these questions probe and text agree; None if no text answers them.

    Beside it two kinds of chance: that of always giving the commonest answer, and the expected share where images and
    texts are paired at random.
    """
    among = answers[answers.known(places)]
    interval = share_interval(among.right(places), among.cases)
    if interval is None:
        return None
    said, seen = among.said[:, list(places)], among.seen[:, list(places)]
    kinds, number = np.unique(np.concatenate([said, seen]), axis=0, return_inverse=True)
    shares = [np.bincount(part, minlength=len(kinds)) / len(said) for part in np.split(number.reshape(-1), [len(said)])]
    chance = {"majority": float(shares[0].max()), "shuffled": float(shares[0] @ shares[1])}
    return {**interval, "images": len(said), **chance}
