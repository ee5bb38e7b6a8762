"""Which images a rater sees, and in which order: fixed by the seed and the rater's name, so that it can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from medgen.feedback.rate_options import RateOptions


@dataclass(frozen=True)
class Item:
    """What is shown at one time: one case, or two side by side."""

    real: bool
    """Whether the case is one of the real ones mixed in."""
    case: int
    """The case's number in its set."""
    other: int | None = None
    """The number of the case beside it."""
    slices: range | None = None
    """Those that are shown; None for all."""


def make_queue(cases: int, real_cases: int, options: RateOptions) -> list[Item]:
    """The items for the options' rater: each of the `cases`, with real ones mixed in, or pairs of cases.

    Of `real_cases` real cases, as many are mixed in as the options' share asks for, or all if there are fewer.
    """
    rng = _random(options)
    if options.pairs:
        return _pairs(cases, options.comparisons, rng)
    share = options.real_share
    mixed = min(real_cases, round(cases * share / (1 - share)))
    items = [Item(False, index) for index in range(cases)]
    items += [Item(True, int(index)) for index in rng.permutation(real_cases)[:mixed]]
    return [items[index] for index in rng.permutation(len(items))]


def disguised(
    items: Sequence[Item], depths: Sequence[int], real_depths: Sequence[int], options: RateOptions
) -> list[Item]:
    """The items, with each real case cut to as many slices as some case to rate has, so that depth does not reveal it.

    `depths` and `real_depths`: numbers of slices of the cases to rate and of the real ones; each of the latter has at
    least as many as one of the former.
    """
    rng, known = _random(options), np.sort(np.asarray(depths))
    shown = []
    for item in items:
        if item.real:
            whole = real_depths[item.case]
            count = int(known[rng.integers(np.searchsorted(known, whole, side="right"))])
            first = int(rng.integers(whole - count + 1))
            item = replace(item, slices=range(first, first + count))
        shown.append(item)
    return shown


def _random(options: RateOptions) -> np.random.Generator:
    name = int.from_bytes(sha256(options.rater.encode()).digest()[:8], "big")
    return np.random.default_rng([options.seed, name])


def _pairs(cases: int, comparisons: int, rng: np.random.Generator) -> list[Item]:
    """Neighbours in random orders of all cases, no pair twice; each case is in about `comparisons` pairs."""
    seen: set[tuple[int, int]] = set()
    pairs: list[Item] = []
    for _ in range(comparisons):
        order = rng.permutation(cases).tolist()
        for first, second in zip(order[::2], order[1::2], strict=False):
            pair = (min(first, second), max(first, second))
            if pair not in seen:
                seen.add(pair)
                pairs.append(Item(False, first, second))
    return pairs
