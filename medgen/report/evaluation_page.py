"""The whole evaluation as one self-contained page: to read, print, and keep with the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medgen.artifacts.provenance import Provenance, ProvenanceStep
from medgen.artifacts.stored import StoredSet
from medgen.evaluation import comparison
from medgen.evaluation.comparison import Pair
from medgen.evaluation.evaluate import Evaluation
from medgen.evaluation.registry import METRICS
from medgen.evaluation.results import Evaluated, Material
from medgen.evaluation.section import Gallery, Section, Table
from medgen.report.examples import examples
from medgen.report.html import counted, figures, flattened, render
from medgen.report.side_by_side import COMMON, JoinedTable, Overlay, bare, join_sections, overlay, warnings_of

Part = tuple[str, Any]
"""A macro of `parts.html`, and what it shows."""


@dataclass(frozen=True)
class Chapter:
    """A section of the page."""

    anchor: str
    title: str
    parts: Sequence[Part]
    warnings: Sequence[str] = ()


def report(evaluation: Evaluation) -> str:
    """The page of an evaluation whose sets are still open."""
    evaluated, materials, numbers = evaluation.results, evaluation.materials, evaluation.numbers
    names = [one.name for one in evaluated]
    reference = next((one for one in materials if one.role == "reference"), None)
    title = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    title = title[:1].upper() + title[1:]
    chapters = [Chapter("material", "Material", [("table_of_words", _material(materials))])]
    if evaluation.pairs:
        chapters.append(Chapter("comparison", "Sample by sample", _comparison(evaluation.pairs, evaluated)))
    for metric in METRICS:
        found = [(one.name, section) for one in evaluated for section in one.sections if section.name == metric]
        if found:
            chapters.append(Chapter(metric, found[0][1].title, _metric(found), warnings_of(found)))
    if galleries := _examples(evaluated, reference):
        chapters.append(Chapter("examples", "Examples", [("gallery", one) for one in galleries]))
    chapters.append(Chapter("provenance", "Provenance", _provenance(materials, evaluation.provenance)))
    chapters.append(Chapter("settings", "Settings and numbers", _settings(numbers)))
    glance = _glance(evaluated)
    return render(
        "evaluation.html",
        title=title,
        lead=_lead(evaluated, reference, numbers),
        glance=glance if len(glance.rows) > 1 or len(names) > 1 else None,
        chapters=chapters,
        version=numbers["version"],
        id=evaluation.provenance.id,
    )


def _lead(evaluated: Sequence[Evaluated], reference: Material | None, numbers: Mapping[str, Any]) -> str:
    sizes = [counted(one.inputs.stored.slices, "slice") for one in evaluated]
    if len(set(sizes)) == 1:
        first = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sets of {sizes[0]} each"
    else:
        first = f"{len(sizes)} sets of {', '.join(sizes[:-1])} and {sizes[-1]}"
    against = ""
    if reference is not None and isinstance(reference.item, StoredSet):
        against = f", against {counted(reference.item.slices, 'slice')} of {reference.name}"
    return f"{first}{against}. Image features: {numbers['features']['name']}."


def _glance(evaluated: Sequence[Evaluated]) -> Table:
    """The first number of each metric, with its interval where the table gives it."""
    rows: dict[str, list[str]] = {}
    for place, one in enumerate(evaluated):
        for section in one.sections:
            measured = ((table, row) for table in section.tables for row in table.rows if not row[1].isdigit())
            table, row = next(measured, (None, []))  # a plain number of images is not a measurement
            if table is not None:
                name = f"{section.title}: {row[0]}, {bare(table.columns[1])}"
                about = next((row[n] for n, column in enumerate(table.columns) if column.startswith("95 %")), "")
                rows.setdefault(name, ["-"] * len(evaluated))[place] = f"{row[1]} ({about})" if about else row[1]
    names = [one.name for one in evaluated]
    return Table("At a glance", ("", *names), [[name, *cells] for name, cells in rows.items()])


def _material(materials: Sequence[Material]) -> Table:
    rows = []
    for one in materials:
        made = one.item.provenance.steps[-1].command
        content, pixels, values = "model", "", ""
        if isinstance(one.item, StoredSet):
            content = f"{counted(len(one.item), 'case')}, {counted(one.item.slices, 'slice')}"
            image = one.item.arrays().get("image") or one.item.arrays().get("latent")
            pixels = " x ".join(map(str, reversed(image[0][1:]))) if image else ""
            intensity = one.item.header.intensity
            values = f"{intensity.window[0]:g} to {intensity.window[1]:g} {intensity.unit}" if intensity else ""
        rows.append([one.name, one.role, content, pixels, values, made, one.digest[:12]])
    columns = ("", "part", "content", "pixels", "window", "made by", "digest")
    return Table("What was measured, and against what", columns, rows)


def _metric(found: Sequence[tuple[str, Section]]) -> list[Part]:
    sets = [name for name, _ in found]
    parts = [_joined(joined, sets) for joined in join_sections(found)]
    if overlays := overlay(found):
        parts.append(("charts", figures(overlays)))
    for name, section in found:
        for gallery in section.galleries:
            title = f"{gallery.title}: {name}" if len(found) > 1 else gallery.title
            parts.append(("gallery", replace(gallery, title=title)))
    return parts


def _joined(shown: JoinedTable, sets: Sequence[str]) -> Part:
    if len(sets) == 1 or len(shown.columns) == 2 or all(len(lines) == 1 for _, lines in shown.rows):
        return "table", shown.flat()
    return "joined_table", (shown, sets)


def _comparison(pairs: Sequence[Pair], evaluated: Sequence[Evaluated]) -> list[Part]:
    sets = {one.name: one for one in evaluated}
    parts: list[Part] = [("paragraph", comparison.METHOD)]
    for pair in pairs:
        if not pair.tests:
            parts.append(("paragraph", comparison.basis(pair)))
            continue
        parts.append(("table", comparison.table_of(pair)))
        spread = comparison.differences(pair, sets[pair.first], sets[pair.second])
        if spread:
            parts.append(("small_charts", figures([Overlay(one, (COMMON,)) for one in spread])))
    return parts


def _examples(evaluated: Sequence[Evaluated], reference: Material | None) -> list[Gallery]:
    real = (reference.name, reference.item) if reference and isinstance(reference.item, StoredSet) else None
    seed = evaluated[0].inputs.seed
    return examples([(one.name, one.inputs.stored) for one in evaluated], real, seed)


def _provenance(materials: Sequence[Material], provenance: Provenance) -> list[Part]:
    names = {one.item.provenance.id: one.name for one in materials}
    digests: dict[str, str] = {}
    for one in materials:
        digests.update(one.item.digests())
    text = (
        "Each line is a command, with the name of its result if it was read here, else its id. "
        "The id is a hash of the command, its settings, its version and the ids of its inputs; "
        "the digest is that of the content."
    )
    steps = in_order(provenance.steps)
    return [("paragraph", text), *(("step", _step(one, names, digests)) for one in steps)]


def in_order(steps: Iterable[ProvenanceStep]) -> list[ProvenanceStep]:
    """The steps, each after its inputs."""
    known = {step.id: step for step in steps}
    order: dict[str, ProvenanceStep] = {}

    def put(step: ProvenanceStep) -> None:
        for parent in step.inputs:
            if parent in known and parent not in order:
                put(known[parent])
        order.setdefault(step.id, step)

    for step in known.values():
        put(step)
    return list(order.values())


def _step(step: ProvenanceStep, names: Mapping[str, str], digests: Mapping[str, str]) -> dict[str, Any]:
    facts = {"inputs": ", ".join(step.inputs) or "none", "medgen": step.version}
    facts |= {"seed": str(step.seed)} if step.seed is not None else {}
    facts |= {"digest": digests[step.id]} if step.id in digests else {}
    facts |= flattened(step.config)
    return {"command": step.command, "name": names.get(step.id, ""), "id": step.id, "facts": facts}


def _settings(numbers: Mapping[str, Any]) -> list[Part]:
    options = flattened(numbers["options"]) | {"features.digest": numbers["features"]["digest"]}
    return [
        ("heading", "Options"),
        ("settings", options),
        ("heading", "Versions"),
        ("settings", {"medgen": numbers["version"], **numbers["versions"]}),
        ("numbers", json.dumps(numbers, indent=1, allow_nan=False)),
    ]
