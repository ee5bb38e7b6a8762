"""Whether the nodule has the requested position and size, and none is visible if none was requested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.conditioning.declaration import FIELDS
from medgen.evaluation.conditioning.metric import observe
from medgen.evaluation.conditioning.nodules import Spot, find_spots
from medgen.evaluation.conditioning.rule import Measured, NoduleRule, Vectors, calibrate
from medgen.evaluation.conditioning.scores import sizes_found
from medgen.evaluation.intervals import halves, share_interval
from medgen.feedback.verification.findings import Finding
from medgen.reporting import Advance, unseen

SIZE_FACTOR = 2.0
"""A nodule passes within this factor of its size, which is how well the rule measures sizes."""


@dataclass(frozen=True)
class NoduleCheck:
    """The measuring rule of `evaluate`, fitted to known nodules."""

    rule: NoduleRule
    trust: dict[str, Any]

    @classmethod
    def learned(cls, reference: StoredSet, seed: int, advance: Advance = unseen) -> NoduleCheck:
        """A rule fitted to half of the reference's cases and tested on the others; built-in if no nodule is known."""
        if not set(FIELDS) <= set(reference.header.vector_fields):
            return cls(NoduleRule(), {"rule": "built in"})
        known, random = observe(reference, advance), np.random.default_rng(seed)
        fit, rest = halves(known.cases, random)
        if not (known.asked[fit, 0] > 0).any():
            return cls(NoduleRule(), {"rule": "built in"})
        rule, tried = calibrate(known[fit], random), known[rest]
        _, fits, _ = sizes_found(tried.with_nodule, rule)
        trust = {"rule": "fitted to the reference", "known_that_pass": share_interval(fits, tried.with_nodule.cases)}
        return cls(rule, trust | cls(rule, {})._without_request(tried))

    def _without_request(self, tried: Measured) -> dict[str, Any]:
        """Shares of known images that pass as empty: of those without a nodule, and of those with one."""
        passes = np.array([self.finding(spots, np.zeros(len(FIELDS))).passes for spots in tried.spots], bool)
        sick = tried.asked[:, 0] > 0
        return {
            "empty_that_pass_as_empty": share_interval(passes[~sick], tried.cases[~sick]),
            "known_that_pass_as_empty": share_interval(passes[sick], tried.cases[sick]),
        }

    def told(self) -> str:
        """How reliable the check is, for messages."""
        words = {
            "known_that_pass": "with a nodule pass as asked",
            "empty_that_pass_as_empty": "without one pass as empty",
            "known_that_pass_as_empty": "with one pass as empty all the same",
        }
        shares = {name: self.trust.get(name) for name in words}
        told = ", ".join(f"{100 * one['value']:.0f} % {words[name]}" for name, one in shares.items() if one)
        return f"of real images that the rule has not seen, {told}" if told else ""

    def findings(self, case: Case, header: SetHeader) -> list[Finding]:
        """One finding for each slice; DataError for a case that cannot be measured."""
        intensity = header.intensity
        if intensity is None or intensity.unit != "HU":
            raise DataError(f"case {case.id}: nodules are measured in CT images in HU only")
        columns = [header.vector_fields.index(name) for name in FIELDS]
        vectors, images = case["vector"].astype(np.float64)[:, columns], case["image"]
        found = []
        for vector, image in zip(vectors, images, strict=True):
            values = np.nan_to_num(intensity.physical(image[0]), nan=-1000.0, posinf=-1000.0, neginf=-1000.0)
            found.append(self.finding(find_spots(values), vector))
        return found

    def finding(self, spots: list[Spot], asked: Vectors) -> Finding:
        """Compare an image's spots with the request (has_nodule, x, y, size), each in [0, 1]."""
        told = {name: round(float(value), 4) for name, value in zip(FIELDS, asked, strict=True)}
        if asked[0] <= 0:
            spot = self.rule.strongest(spots)
            there = spot is not None and self.rule.strength(spot) >= self.rule.anywhere
            return Finding("nodule", {"has_nodule": 0.0}, _told(spot, self.rule) if there else {}, {}, not there)
        spot = self.rule.at(spots, asked)
        here = spot is not None and self.rule.strength(spot) >= self.rule.near
        spot = spot if here else self.rule.strongest(spots)
        if spot is None:
            return Finding("nodule", told, {}, {}, passes=False)
        size = self.rule.size(spot)
        differs = {"place": round(float(np.hypot(spot.x - asked[1], spot.y - asked[2])), 4)}
        differs["size"] = round(size - float(asked[3]), 4)
        fits = asked[3] / SIZE_FACTOR <= size <= asked[3] * SIZE_FACTOR
        return Finding("nodule", told, _told(spot, self.rule), differs, bool(here and fits))


def _told(spot: Spot | None, rule: NoduleRule) -> dict[str, float]:
    if spot is None:
        return {}
    return {"x": round(spot.x, 4), "y": round(spot.y, 4), "size": round(rule.size(spot), 4)}
