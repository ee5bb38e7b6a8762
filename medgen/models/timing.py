"""Which of two ways to compute is faster on this processor, measured so that noise does not decide."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from medgen.nets.compute import one_thread

ROUNDS = 3
"""How often each pass is timed; the shortest time counts, since others on the machine can only lengthen it."""
LONG = 0.02
"""Seconds of a pass that is timed once: nothing short disturbs it much."""
HOPELESS = 3.0
"""How many times as slow the second way must be to need no further timing."""
ENOUGH = 0.02
"""Processor seconds of the first way after which further passes are not timed: the costliest come first."""

Clock = Callable[[], float]
Pass = Callable[[], object]


class Times(NamedTuple):
    """Processor seconds of the passes that were timed, the first way and the second way."""

    first: float
    second: float

    @property
    def lead(self) -> float:
        """How many times as fast the second way is."""
        return self.first / max(self.second, 1e-9)


def in_turns(passes: Iterable[tuple[Pass, Pass]], clock: Clock = time.process_time) -> Times:
    """Time passes, each of them both ways in turn, until they have taken long enough to tell.

    They run in one thread, and the clock counts its processor time, not the time it waits for a processor that others
    use too. Threads would wait for each other as well, busily: on a loaded machine that hides which way is faster.
    """
    with one_thread():
        return _in_turns(passes, clock)


def _in_turns(passes: Iterable[tuple[Pass, Pass]], clock: Clock) -> Times:
    sums = [0.0, 0.0]
    for both in passes:
        best = [math.inf, math.inf]
        for run in both:
            run()  # warm-up: makes plans and allocates memory
        for number in range(ROUNDS):
            for way, run in enumerate(both):
                began = clock()
                run()
                best[way] = min(best[way], clock() - began)
            if min(best) > LONG or (number and best[1] > HOPELESS * best[0]):
                break
        sums = [total + shortest for total, shortest in zip(sums, best, strict=True)]
        if sums[0] >= ENOUGH:
            break
    return Times(*sums)
