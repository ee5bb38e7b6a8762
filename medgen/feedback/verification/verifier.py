"""Which cases show what they were asked to show, and drawing those anew that do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import msgspec
import torch

from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.conditioning.declaration import FIELDS
from medgen.evaluation.segmentation.options import SegmenterOptions
from medgen.feedback.verification.findings import Check, Finding
from medgen.feedback.verification.masks import MaskCheck
from medgen.feedback.verification.nodules import NoduleCheck
from medgen.inference.conditions.requests import Requests
from medgen.inference.generate import Generator
from medgen.reporting import Advance, Reporter, unseen

Refused = Callable[[Case, DataError], None]


@dataclass
class Verifier:
    """Checks cases against what they were asked to show; what it needs is learned from real images at the first one."""

    reference: StoredSet
    header: SetHeader
    """Of the set that is verified."""
    segmenter: SegmenterOptions
    reporter: Reporter
    device: torch.device
    seed: int = 0
    told: list[dict[str, Any]] = field(default_factory=list)
    """What was found in each case so far."""
    _checks: list[Check] = field(default_factory=list)

    def passing(self, cases: Iterable[Case], refused: Refused, advance: Advance = unseen) -> Iterator[Case]:
        """The cases that show what they were asked to; those that cannot be measured are `refused`."""
        for case in cases:
            try:
                passes = self.passes(case)
            except DataError as error:
                if not self._checks:
                    raise
                refused(case, error)
                continue
            advance(len(case))
            if passes:
                yield case

    def passes(self, case: Case, number: int = 0) -> bool:
        """Whether each slice shows what it was asked to, in the try with this number; `told` then says how far."""
        if not self._checks:
            self._learn(case)
        findings = [one for check in self._checks for one in check.findings(case, self.header)]
        passes = all(one.passes for one in findings)
        told = {"case": case.id, **({"try": number} if number else {}), "passes": passes}
        self.told.append({**told, "findings": [_plain(one) for one in findings]})
        return passes

    def summary(self) -> dict[str, Any]:
        """What was found, for the report."""
        passed = sum(one["passes"] for one in self.told)
        acceptance = passed / len(self.told) if self.told else None
        trust = [one.trust for one in self._checks]
        return {
            "measured": len(self.told),
            "passed": passed,
            "acceptance": acceptance,
            "checks": trust,
            "cases": self.told,
        }

    def _learn(self, case: Case) -> None:
        """Make the checks for what a case was asked to show; DataError if nothing of it can be measured."""
        ours, theirs = self.header.intensity, self.reference.header.intensity
        if self.header.kind != "image" or self.reference.header.kind != "image" or ours is None or theirs is None:
            raise DataError("only images are verified, by images: one of the two sets holds something else")
        if (ours.unit, ours.window) != (theirs.unit, theirs.window):
            raise DataError("--reference: its window or unit differs from the set's; preprocess both alike")
        if self.reference.arrays()["image"][0][0] != case.stack("image").shape[1]:
            raise DataError("--reference: its images have other channels; preprocess both with one --channels")
        if "vector" in case.arrays and set(FIELDS) <= set(self.header.vector_fields):
            with self.reporter.progress(self.reference.slices, "slices") as advance:
                check = NoduleCheck.learned(self.reference, self.seed, advance)
            if check.trust["rule"] == "built in":
                self.reporter.warn("--reference holds no known nodule; the built-in rule measures, tried on none")
            self._checks.append(check)
        if "mask" in case.arrays:
            progress = self.reporter.progress
            self._checks.append(MaskCheck.learned(self.reference, self.segmenter, self.seed, self.device, progress))
        if not self._checks:
            raise DataError(
                f"nothing to verify: case {case.id} has neither a mask nor a vector with {', '.join(FIELDS)}; generate "
                "with --mask, --vector or --like"
            )
        for made in self._checks:
            self.reporter.detail(f"verified by {made.trust}")


def verified(
    generator: Generator, indices: Sequence[int], requests: Requests, verifier: Verifier, tries: int, refused: Refused
) -> Iterator[Case]:
    """The samples of `Generator.cases`, those that do not show what was asked drawn anew with other seeds.

    The first try is the sample without verification; one that fails all tries is `refused`.
    """
    size = generator.options.batch_size
    for start in range(0, len(indices), size):
        batch = list(indices[start : start + size])
        done: dict[int, Case] = {}
        for number in range(tries):
            waiting = [index for index in batch if index not in done]
            options = msgspec.structs.replace(generator.options, seed=seed_of(generator.options.seed, number))
            again, last = replace(generator, options=options), number == tries - 1
            for index, case in zip(waiting, again.cases(waiting, requests), strict=True):
                if verifier.passes(case, number + 1):
                    done[index] = case
                elif last:
                    told = f"case {case.id}: does not show what was asked in {tries} tries"
                    refused(case, DataError(told))
        yield from (done[index] for index in batch if index in done)


def seed_of(seed: int, number: int) -> int:
    """The seed of the try with this number, from 0; the first one's is the seed itself."""
    if number == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed}/{number}".encode(), digest_size=6).digest(), "little")


def passed_by_try(told: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many samples passed in each try."""
    counts = Counter(one["try"] for one in told if one["passes"])
    return {str(number): counts[number] for number in sorted(counts)}


def _plain(finding: Finding) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(finding)
    return plain
