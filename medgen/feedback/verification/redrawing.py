"""`generate --until verified`: redraws the samples that do not show what they were asked to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import msgspec

from medgen.artifacts.schema import Case
from medgen.errors import DataError
from medgen.feedback.verification.verifier import Verifier
from medgen.inference.conditions.requests import Requests
from medgen.inference.generate import Generator
from medgen.inference.slices import Refused


@dataclass(frozen=True)
class Redrawing:
    """Draws each sample until it shows what was asked, `tries` times at most."""

    generator: Generator
    verifier: Verifier
    tries: int

    @property
    def nothing(self) -> str:
        """The error for a set in which no sample passed."""
        return f"no sample shows what was asked in {self.tries} tries; more --tries may help, or a better model"

    def told(self, given_up: int) -> str:
        """How many draws passed, for messages; `given_up` samples failed all tries."""
        found = self.verifier.summary()
        share = f"{found['passed']} of {found['measured']} draws show what was asked"
        return f"{share}; {given_up} samples were given up after {self.tries} tries"

    def cases(self, indices: Sequence[int], requests: Requests, refused: Refused) -> Iterator[Case]:
        """The samples of `Generator.cases`, with those that do not show what was asked redrawn with other seeds.

        The first try is the sample without verification; a sample that fails all tries is passed to `refused`.
        """
        options = self.generator.options
        size = options.batch_size
        for start in range(0, len(indices), size):
            batch = list(indices[start : start + size])
            done: dict[int, Case] = {}
            waiting = batch
            for number in range(self.tries):
                reseeded = msgspec.structs.replace(options, seed=seed_of(options.seed, number))
                again, last = replace(self.generator, options=reseeded), number == self.tries - 1
                failed = []
                for index, case in zip(waiting, again.cases(waiting, requests), strict=True):
                    passes = self.verifier.judged(case, refused, number + 1)
                    if passes is None:
                        continue
                    if passes:
                        done[index] = case
                    elif last:
                        refused(case, DataError(f"case {case.id}: does not show what was asked in {self.tries} tries"))
                    else:
                        failed.append(index)
                waiting = failed
            yield from (done[index] for index in batch if index in done)


def seed_of(seed: int, number: int) -> int:
    """The seed of a try, numbered from 0; the first one has the seed itself."""
    if number == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed}/{number}".encode(), digest_size=6).digest(), "little")
