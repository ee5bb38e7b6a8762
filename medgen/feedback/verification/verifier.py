"""Checks which cases show what they were asked to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch

from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.stacks import blocks
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.agreement.declaration import ProbeOptions
from medgen.evaluation.conditioning.declaration import FIELDS
from medgen.evaluation.segmentation.options import SegmenterOptions
from medgen.feedback.verification.findings import Check, Finding
from medgen.feedback.verification.masks import MaskCheck
from medgen.feedback.verification.nodules import NoduleCheck
from medgen.feedback.verification.texts import TextCheck
from medgen.inference.slices import Refused
from medgen.reporting import Advance, Reporter, unseen


@dataclass
class Verifier:
    """Checks cases against their requests; the checks are learned from real images when the first case comes."""

    reference: StoredSet
    header: SetHeader
    """Of the set that is verified."""
    segmenter: SegmenterOptions
    probe: ProbeOptions
    reporter: Reporter
    device: torch.device
    seed: int = 0
    told: list[dict[str, Any]] = field(default_factory=list)
    """What was found in each case so far."""
    _checks: dict[str, Check | None] = field(default_factory=dict)
    """By what they judge; None for texts that cannot be judged, beside something that can."""

    @property
    def measures(self) -> bool:
        """Whether a check was learned."""
        return any(check is not None for check in self._checks.values())

    @property
    def trust(self) -> list[dict[str, Any]]:
        """How reliable each learned check is."""
        return [check.trust for check in self._checks.values() if check is not None]

    def passing(self, cases: Iterable[Case], refused: Refused, advance: Advance = unseen) -> Iterator[Case]:
        """The cases that show what was asked for; those that cannot be measured are passed to `refused`."""
        for case in cases:
            passes = self.judged(case, refused)
            if passes is not None:
                advance(len(case))
            if passes:
                yield case

    def judged(self, case: Case, refused: Refused, number: int = 0) -> bool | None:
        """As `passes`; None for a case that cannot be measured, which is passed to `refused`, though others can be."""
        if not _is_finite(case):
            refused(case, DataError(f"case {case.id}: the image or its request holds NaN or infinity"))
            return None
        try:
            return self.passes(case, number)
        except DataError as error:
            if not self.measures:
                raise
            refused(case, error)
            return None

    def passes(self, case: Case, number: int = 0) -> bool:
        """Whether each slice shows what it was asked to, in the try with this number; `told` then says how far.

        DataError if nothing of what was asked can be judged.
        """
        checks = [check for kind in self._kinds(case) if (check := self._check(kind, case)) is not None]
        findings = [one for check in checks for one in check.findings(case, self.header)]
        judged = [one.passes for one in findings if one.passes is not None]
        if not judged:
            names = dict.fromkeys(f"{name} {one.asked[name]}" for one in findings for name in one.not_judged)
            raise DataError(
                f"case {case.id}: nothing that its text asks can be judged"
                + (f" ({', '.join(names)}): no probe recognises it reliably in held-out real images" if names else "")
            )
        passes = all(judged)
        told = {"case": case.id, **({"try": number} if number else {}), "passes": passes}
        self.told.append({**told, "findings": [_plain(one) for one in findings]})
        return passes

    def summary(self) -> dict[str, Any]:
        """What was found, for the report."""
        passed = sum(one["passes"] for one in self.told)
        acceptance = passed / len(self.told) if self.told else None
        return {
            "measured": len(self.told),
            "passed": passed,
            "acceptance": acceptance,
            "not_judged": self._not_judged(),
            "checks": self.trust,
            "cases": self.told,
        }

    def warnings(self) -> list[str]:
        """Messages on the parts of requests that were not judged."""
        return [
            f"{name} was not judged in {count} images: on held-out real images, a probe does not reliably recognise "
            "what they ask for"
            for name, count in self._not_judged().items()
        ]

    def _not_judged(self) -> dict[str, int]:
        """In how many slices something that was asked could not be judged, by its name."""
        findings = (finding for one in self.told for finding in one["findings"])
        return dict(Counter(name for finding in findings for name in finding["not_judged"]))

    def _kinds(self, case: Case) -> list[str]:
        """What of the case's requests can be measured; DataError for nothing."""
        kinds = {
            "nodule": "vector" in case.arrays and set(FIELDS) <= set(self.header.vector_fields),
            "mask": "mask" in case.arrays,
            "text": any(case.text) or any(case.modality),
        }
        if not any(kinds.values()):
            raise DataError(
                f"nothing to verify: case {case.id} has neither a mask, nor a text, nor a vector with "
                f"{', '.join(FIELDS)}; ask for one of these, or leave out --verify"
            )
        return [kind for kind, asked in kinds.items() if asked]

    def _check(self, kind: str, case: Case) -> Check | None:
        """The check of a kind, which is learned for the first case that needs it.

        DataError if it cannot be learned; texts then are not judged, where something else is.
        """
        if kind not in self._checks:
            self._refuse_unlike(case)
            try:
                made: Check | None = self._learn(kind)
            except DataError as error:
                if kind != "text" or not self.measures:
                    raise
                self.reporter.warn(f"texts are not judged: {error}")
                made = None
            self._checks[kind] = made
            if made is not None:
                self.reporter.detail(f"verified by {made.trust}")
        return self._checks[kind]

    def _learn(self, kind: str) -> Check:
        progress = self.reporter.progress
        if kind == "text":
            return TextCheck.learned(self.reference, self.probe, self.seed, self.device, progress)
        if kind == "mask":
            return MaskCheck.learned(self.reference, self.segmenter, self.seed, self.device, progress)
        with progress(self.reference.slices, "slices") as advance:
            check = NoduleCheck.learned(self.reference, self.seed, advance)
        if check.trust["rule"] == "built in":
            self.reporter.warn("--reference holds no known nodule; the built-in rule measures, tested on none")
        else:
            self.reporter.say(check.told())
        return check

    def _refuse_unlike(self, case: Case) -> None:
        """DataError unless the reference holds images like the case's."""
        ours, theirs = self.header.intensity, self.reference.header.intensity
        if self.header.kind != "image" or self.reference.header.kind != "image" or ours is None or theirs is None:
            raise DataError("only images can be verified, and only by images: one of the two sets holds something else")
        if (ours.unit, ours.window) != (theirs.unit, theirs.window):
            raise DataError("--reference: its window or unit differs from the set's; preprocess both the same way")
        if self.reference.arrays()["image"][0][0] != case.stack("image").shape[1]:
            raise DataError("--reference: its images have other channels; preprocess both with the same --channels")


def _plain(finding: Finding) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(finding)
    return plain


def _is_finite(case: Case) -> bool:
    """Whether what is measured in the case and what it is measured against are numbers: NaN would pass as empty."""
    arrays = (case.stack(name) for name in ("image", "vector") if name in case.arrays)
    return all(bool(np.isfinite(block).all()) for array in arrays if array.dtype.kind == "f" for block in blocks(array))
