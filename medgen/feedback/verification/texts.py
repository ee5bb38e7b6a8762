"""Whether an image shows what its text says, according to a probe trained on real images and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.agreement.attributes import (
    FINDING,
    MODALITY,
    SIDE,
    Attribute,
    Reading,
    Texts,
    attributes_of,
)
from medgen.evaluation.agreement.by_probe import LEAST_CASES, texts_of
from medgen.evaluation.agreement.declaration import ProbeOptions
from medgen.evaluation.agreement.probe import Lesson, answered, read_images
from medgen.evaluation.agreement.scores import Answers
from medgen.evaluation.segmentation.pairs import seen_size
from medgen.feedback.verification.findings import Finding
from medgen.nets.classifier import Classifier
from medgen.phantoms.captions import FIELDS
from medgen.reporting import Progress

RELIABLE = 0.8
"""An answer is judged if the probe gives it for this share of the held-out real images that show it, and withholds it
from this share of those that do not."""
FEWEST = 5
"""Held-out real images of either kind, below which nobody knows."""
UNMENTIONED = "no"
"""Of a word: a text that does not hold it asks for nothing."""


@dataclass(frozen=True)
class TextCheck:
    """A probe, its questions, and the answers that it recognises reliably."""

    probe: Classifier
    reading: Reading
    attributes: tuple[Attribute, ...]
    reliable: Mapping[str, frozenset[str]]
    """By question."""
    side: int
    trust: dict[str, Any]

    @classmethod
    def learned(
        cls,
        reference: StoredSet,
        options: ProbeOptions,
        seed: int,
        device: torch.device,
        progress: Progress,
    ) -> TextCheck:
        """A probe trained on a part of the reference's cases and tested on the others.

        Nothing is taken from the texts to verify, of which another shard would see others first. Captions are asked
        for modality, side and finding, other texts for modality and frequent words. DataError if the probe tells
        nothing reliably.
        """
        if not reference.has("text"):
            raise DataError("--reference: has no texts for a probe to learn from; give real images with texts")
        real = texts_of(reference)
        judged = (MODALITY, SIDE, FINDING)
        attributes = [one for one in attributes_of(real, real) if one.name in judged or one.name not in FIELDS]
        if len(np.unique(real.cases)) < LEAST_CASES or not attributes:
            raise DataError(
                f"--reference: a probe needs {LEAST_CASES} cases, and texts that say different things; give more "
                "real images"
            )
        with progress(reference.slices, "slices") as advance:
            lesson = Lesson.of(
                read_images(reference, options.side, advance), attributes, real.cases, options.held_out, seed
            )
        with progress(options.steps, "steps of the probe") as advance:
            probe = lesson.teach(options, seed, device, advance)
        tried = lesson.tried(probe)
        trust = {one.name: _trust(one, tried, place) for place, one in enumerate(attributes)}
        reliable = {
            name: frozenset(answer for answer, told in answers.items() if told["judged"])
            for name, answers in trust.items()
        }
        if not any(reliable.values()):
            raise DataError(
                f"--reference: the probe recognises {', '.join(trust)} of held-out real images too rarely to judge "
                "other images; give more real images"
            )
        return cls(probe, Reading.of(real, real), tuple(attributes), reliable, options.side, {"texts": trust})

    def findings(self, case: Case, header: SetHeader) -> list[Finding]:
        """One finding for each slice; DataError for a case that cannot be measured."""
        if header.intensity is None:
            raise DataError(f"case {case.id}: the set does not say what its image values mean")
        images = torch.nan_to_num(torch.from_numpy(header.intensity.normalized(case["image"])))
        height, width = images.shape[-2:]
        size = seen_size(height, width, self.side)
        seen = answered(self.probe, images if size == (height, width) else F.interpolate(images, size, mode="area"))
        values = self.reading.values(texts_in(case))
        found = []
        for row in range(len(case)):
            told = {
                one.name: (values[one.name][row], one.answers[seen[row, place]])
                for place, one in enumerate(self.attributes)
            }
            found.append(self._finding(told))
        return found

    def _finding(self, told: Mapping[str, tuple[str, str]]) -> Finding:
        """From what the text asks and what the probe sees, by question."""
        told = {name: both for name, both in told.items() if both[0] not in ("", UNMENTIONED)}
        unjudged = tuple(name for name, (asked, _) in told.items() if asked not in self.reliable[name])
        differs = {name: 1.0 for name, (asked, seen) in told.items() if asked != seen and name not in unjudged}
        asked, seen = ({name: both[side] for name, both in told.items()} for side in (0, 1))
        passes = not differs if len(unjudged) < len(told) else None
        return Finding("text", asked, seen, differs, passes, unjudged)


def texts_in(case: Case) -> Texts:
    """The texts and modalities of a case's slices."""
    nothing = [""] * len(case)
    return Texts(case.text or nothing, case.modality or nothing, np.zeros(len(case), np.int64))


def _trust(attribute: Attribute, tried: Answers, place: int) -> dict[str, dict[str, Any]]:
    """For each answer, how well the probe tells it on held-out real images, and whether it is judged by that."""
    known = tried[tried.known([place])]
    told = {}
    for number, answer in enumerate(attribute.answers):
        shows, seen = known.said[:, place] == number, known.seen[:, place] == number
        shares = [float(right.mean()) if len(right) else 0.0 for right in (seen[shows], ~seen[~shows])]
        counts = int(shows.sum()), int((~shows).sum())
        told[answer] = {
            "recognised": round(shares[0], 4),
            "of": counts[0],
            "rejected": round(shares[1], 4),
            "of_others": counts[1],
            "judged": min(shares) >= RELIABLE and min(counts) >= FEWEST,
        }
    return told
