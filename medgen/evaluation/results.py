"""What an evaluation gives: the findings on each set, every number as JSON, and the provenance."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medgen import __version__
from medgen.artifacts.provenance import Identified, Provenance, derive
from medgen.artifacts.stored import StoredSet
from medgen.artifacts.synthetic import counted
from medgen.config import plain
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.options import SharedOptions
from medgen.evaluation.registry import METRICS
from medgen.evaluation.section import Section

LIBRARIES = ("torch", "numpy", "scipy")
"""Whose versions can change a number."""


@dataclass(frozen=True)
class Material:
    """A set that was measured or compared with: its part in the evaluation, and its name."""

    role: str
    name: str
    item: Identified

    @property
    def digest(self) -> str:
        """Of its content."""
        return self.item.digests()[self.item.provenance.id]


@dataclass(frozen=True)
class Evaluated:
    """A set, under its name in the report, and what each metric found."""

    name: str
    inputs: Inputs
    sections: list[Section]


def provenance_of(options: SharedOptions, materials: Sequence[Material]) -> Provenance:
    """The graph that ends in this evaluation."""
    return derive("evaluate", shareable(options), seed=options.seed, inputs=[one.item for one in materials])


def as_json(
    evaluated: Sequence[Evaluated],
    options: SharedOptions,
    provenance: Provenance,
    comparison: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every number, and what was compared with what."""
    inputs = evaluated[0].inputs
    return {
        "schema": "medgen.evaluation/2",
        "version": __version__,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "provenance": provenance.id,
        "options": shareable(options),
        "features": {"name": inputs.bank.extractor.name, "digest": inputs.bank.extractor.digest},
        "reference": identity(inputs.reference),
        "training": identity(inputs.training),
        "vae_digest": inputs.vae.digest if inputs.vae else None,
        "sets": [
            {
                "name": one.name,
                **(identity(one.inputs.stored) or {}),
                **{part.name: part.result for part in one.sections},
            }
            for one in evaluated
        ],
        **({"comparison": dict(comparison)} if comparison is not None else {}),
    }


def shareable(options: SharedOptions) -> dict[str, Any]:
    """The options, with files given by content and not by name; the provenance tells how they were read."""
    shared = plain(options)
    del shared["reading"]
    if options.features != "builtin":
        shared["features"] = _content(options.features)
    if options.pair_by.lower().endswith(".csv"):
        shared["pair_by"] = _content(options.pair_by)
    for metric in METRICS.values():
        for name in metric.files:
            if file := getattr(options.of(metric), name):
                shared[metric.name][name] = _content(file)
    return shared


def _content(file: str) -> str:
    """The digest of a file, or of all files in a folder, without its subfolders."""
    path = Path(file)
    if not path.is_dir():
        with path.open("rb") as opened:
            return f"sha256 {hashlib.file_digest(opened, 'sha256').hexdigest()[:16]}"
    parts = [f"{part.name} {_content(str(part))}" for part in sorted(path.iterdir()) if part.is_file()]
    return f"sha256 {hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:16]}"


def identity(stored: StoredSet | None) -> dict[str, Any] | None:
    """Which set it was, and how much of it was used."""
    if stored is None:
        return None
    return {
        "provenance": stored.provenance.id,
        "digest": stored.tail.digest,
        "cases": len(stored),
        "slices": stored.slices,
        "synthetic": counted(stored.cases),
    }
