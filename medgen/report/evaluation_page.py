"""The whole evaluation as one page that needs nothing else: for reading, for print, and to keep beside the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.stored import StoredSet
from medgen.evaluation import comparison
from medgen.evaluation.comparison import Pair
from medgen.evaluation.evaluation import METRICS, Evaluated, Material
from medgen.evaluation.section import Gallery, Section, Table
from medgen.report import html as report_page
from medgen.report.examples import examples
from medgen.report.html import counted, flattened
from medgen.report.provenance_graph import drawn, merged
from medgen.report.side_by_side import COMMON, Overlay, bare, join_sections, overlay, warnings_of


def report(
    evaluated: Sequence[Evaluated],
    pairs: Sequence[Pair],
    materials: Sequence[Material],
    provenance: Provenance,
    numbers: Mapping[str, Any],
) -> str:
    """The page: `materials` are all things that were read, `numbers` what `as_json` says, `provenance` ends in it."""
    names = [one.name for one in evaluated]
    reference = next((one for one in materials if one.role == "reference"), None)
    title = " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    title = title[:1].upper() + title[1:]
    chapters: list[tuple[str, str, list[str], int]] = []
    if pairs:
        chapters.append(("comparison", "Sample by sample", _comparison(pairs, evaluated), 0))
    for metric in METRICS:
        found = [(one.name, section) for one in evaluated for section in one.sections if section.name == metric]
        if found:
            warnings = warnings_of(found)
            parts = [report_page.cautions(warnings), *_metric(found)]
            chapters.append((metric, found[0][1].title, parts, len(warnings)))
    if galleries := _examples(evaluated, reference):
        chapters.append(("examples", "Examples", [report_page.gallery(one) for one in galleries], 0))
    chapters.append(("provenance", "Provenance", _provenance(materials, provenance), 0))
    chapters.append(("settings", "Settings and numbers", _settings(numbers), 0))
    glance = _glance(evaluated)
    body = [
        "<header>",
        report_page.paragraph("Evaluation by medgen", "eyebrow"),
        f"<h1>{escape(title)}</h1>",
        report_page.paragraph(_lead(evaluated, reference, numbers), "lead"),
        "</header>",
        report_page.contents([("material", "Material", 0), *((a, t, n) for a, t, _, n in chapters)]),
        "<main>",
        *([report_page.table(glance)] if len(glance.rows) > 1 or len(names) > 1 else []),
        report_page.section("material", "Material", [report_page.table(_material(materials), words=True)]),
        *(report_page.section(anchor, heading, parts) for anchor, heading, parts, _ in chapters),
        "</main>",
        f"<footer>medgen {numbers['version']}, evaluation {provenance.id}. "
        "The same command on the same inputs gives this page again, byte for byte.</footer>",
    ]
    return report_page.page(f"Evaluation of {title}", body)


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
    """The first number of each metric, with its interval where the table tells it."""
    rows: dict[str, list[str]] = {}
    for place, one in enumerate(evaluated):
        for section in one.sections:
            measured = ((table, row) for table in section.tables for row in table.rows if not row[1].isdigit())
            table, row = next(measured, (None, []))  # a plain number of images is no measurement
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


def _metric(found: Sequence[tuple[str, Section]]) -> list[str]:
    sets = [name for name, _ in found]
    parts = [report_page.joined_table(joined, sets) for joined in join_sections(found)]
    parts.append(report_page.charts(overlay(found)))
    for name, section in found:
        for gallery in section.galleries:
            title = f"{gallery.title}: {name}" if len(found) > 1 else gallery.title
            parts.append(report_page.gallery(replace(gallery, title=title)))
    return parts


def _comparison(pairs: Sequence[Pair], evaluated: Sequence[Evaluated]) -> list[str]:
    sets = {one.name: one for one in evaluated}
    parts = [report_page.paragraph(comparison.METHOD)]
    for pair in pairs:
        if not pair.tests:
            parts.append(report_page.paragraph(comparison.basis(pair)))
            continue
        parts.append(report_page.table(comparison.table_of(pair)))
        spread = comparison.differences(pair, sets[pair.first], sets[pair.second])
        parts.append(report_page.charts([Overlay(one, (COMMON,)) for one in spread], small=True))
    return parts


def _examples(evaluated: Sequence[Evaluated], reference: Material | None) -> list[Gallery]:
    real = (reference.name, reference.item) if reference and isinstance(reference.item, StoredSet) else None
    seed = evaluated[0].inputs.options.seed
    return examples([(one.name, one.inputs.stored) for one in evaluated], real, seed)


def _provenance(materials: Sequence[Material], provenance: Provenance) -> list[str]:
    steps = merged([provenance])
    names = {one.item.provenance.id: one.name for one in materials}
    digests: dict[str, str] = {}
    for one in materials:
        digests.update(one.item.digests())
    text = (
        "Each box is a command, with the name of its result where it was read here, else its id. "
        "The id is a hash of the command, its settings, its version and the ids of its inputs; "
        "the digest is that of the content."
    )
    listed = [report_page.step(step, names.get(step.id, ""), digests.get(step.id, "")) for step in steps]
    return [report_page.paragraph(text), drawn(steps, names), *listed]


def _settings(numbers: Mapping[str, Any]) -> list[str]:
    features = numbers["features"]
    options = flattened(numbers["options"]) | {"features.digest": features["digest"]}
    text = escape(json.dumps(numbers, indent=1, allow_nan=False))
    return [
        "<h3>Options</h3>",
        report_page.settings(options),
        "<h3>Versions</h3>",
        report_page.settings({"medgen": numbers["version"], **numbers["versions"]}),
        '<div class="screen"><h3>Every number</h3>',
        f"<details><summary>As JSON, the same as --json writes</summary><pre>{text}</pre></details></div>",
    ]
