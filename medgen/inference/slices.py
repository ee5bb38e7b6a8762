"""Passing slices of neighbouring cases through a network together, each with its own noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor

from medgen.artifacts.schema import Case
from medgen.diffusion.noise import sample_noise
from medgen.errors import DataError

Refused = Callable[[Case, DataError], None]
"""Called with each case that is left out, and why."""
GROUP = 4
"""Batches collected before the network runs: the last may be small, which costs little among four."""


def grouped(
    cases: Iterable[Case], batch_size: int, check: Callable[[Case], None], refused: Refused | None
) -> Iterator[list[Case]]:
    """Groups of neighbouring cases with images of one shape that together fill batches.

    A case that `check` refuses with a DataError is left out and reported to `refused`; with None the error is raised.
    """
    group: list[Case] = []
    for case in cases:
        try:
            check(case)
        except DataError as error:
            if refused is None:
                raise
            refused(case, error)
            continue
        if group and group[0]["image"].shape[1:] != case["image"].shape[1:]:
            yield group
            group = []
        group.append(case)
        if sum(map(len, group)) >= GROUP * batch_size:
            yield group
            group = []
    if group:
        yield group


def slice_keys(cases: Sequence[Case]) -> list[str]:
    """A key for each slice of some cases, in order: the case's id and the slice's index."""
    return [f"{case.id}/{index}" for case in cases for index in range(len(case))]


def slice_noise(seed: int, keys: Sequence[str], shape: Sequence[int], stream: int = 0) -> Tensor:
    """Noise (len(keys), *shape) that depends only on seed, key and stream, so that shards and batches agree."""
    digests = [hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys]
    return sample_noise(seed, [int.from_bytes(digest, "little") for digest in digests], shape, stream)
