"""Which sample is used at which position of a training: epochs without repetition, balanced on request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from medgen.training.data.step import mix

Indices = npt.NDArray[np.int64]


class Sampler:
    """Map positions 0, 1, 2, ... to samples; a pure function of (seed, position).

    Without `fraction` each epoch visits all samples once, in a new order. With it, that share of the positions,
    evenly spread, goes to samples whose `group` is true, and each group has its own epochs.
    """

    def __init__(self, samples: Indices, seed: int, *, group: npt.NDArray[np.bool_], fraction: float = 1.0) -> None:
        self.fraction = fraction
        self._inside, self._outside = samples[group], samples[~group]
        self._seed = seed
        self._order = lru_cache(maxsize=4)(self._shuffle)

    def __getitem__(self, positions: Sequence[int]) -> Indices:
        """Samples at these positions, (len(positions),)."""
        places = np.asarray(positions, dtype=np.int64)
        before = np.floor(places * self.fraction).astype(np.int64)  # earlier positions that went to the group
        inside = np.floor((places + 1) * self.fraction).astype(np.int64) > before
        chosen = np.empty(len(places), dtype=np.int64)
        chosen[inside] = self._turns(True, before[inside])
        chosen[~inside] = self._turns(False, (places - before)[~inside])
        return chosen

    def _turns(self, inside: bool, turns: Indices) -> Indices:
        """The samples of one group at these of its turns."""
        members = self._inside if inside else self._outside
        chosen = np.empty(len(turns), dtype=np.int64)
        for epoch in np.unique(turns // len(members)) if len(turns) else ():
            now = turns // len(members) == epoch
            chosen[now] = members[self._order(inside, int(epoch))[turns[now] % len(members)]]
        return chosen

    def _shuffle(self, inside: bool, epoch: int) -> Indices:
        size = len(self._inside if inside else self._outside)
        return np.random.default_rng(mix(self._seed, "order", inside, epoch)).permutation(size)
