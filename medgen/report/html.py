"""The parts of the report's page as HTML: no script, nothing from outside, everything escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from medgen.artifacts.provenance import Step
from medgen.evaluation.section import Distribution, Gallery, Picture, Pixels, Table
from medgen.report.charts import described, edges_of, histogram
from medgen.report.png import data_uri
from medgen.report.side_by_side import JoinedTable, Overlay

ENLARGED_WIDTH, LARGEST_WIDTH = 160, 240
"""Pixels on the screen: small images are enlarged a whole number of times, to about the first; none is shown larger
than the second."""
STORED_WIDTH = 512
LONG_TABLE = 30
"""Rows above which a table may be cut by the end of a printed page."""
NEW_LINE = "\n"


def page(title: str, body: Sequence[str]) -> str:
    """The whole document."""
    style = resources.files("medgen.report").joinpath("report.css").read_text(encoding="utf-8")
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{style}</style>",
    ]
    parts = ["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", '<div class="page">']
    return "\n".join([*parts, *body, "</div>", "</body>", "</html>", ""])


def section(anchor: str, title: str, parts: Sequence[str]) -> str:
    """A section of the page under its heading."""
    return "\n".join([f'<section id="{escape(anchor)}">', f"<h2>{escape(title)}</h2>", *parts, "</section>"])


def contents(entries: Sequence[tuple[str, str, int]]) -> str:
    """Links to (anchor, title, number of warnings)."""
    items = []
    for anchor, title, warnings in entries:
        note = f' <span class="count">({counted(warnings, "warning")})</span>' if warnings else ""
        items.append(f'<li><a href="#{escape(anchor)}">{escape(title)}</a>{note}</li>')
    return f'<nav aria-label="Contents"><ul>{"".join(items)}</ul></nav>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def cautions(warnings: Sequence[str]) -> str:
    """What to know before the numbers are read; "" for nothing."""
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    title = "Read with care" if len(warnings) == 1 else f"Read with care: {counted(len(warnings), 'warning')}"
    return f'<aside class="cautions"><h3>{title}</h3><ul>{items}</ul></aside>'


def table(shown: Table, *, words: bool = False) -> str:
    """A plain table; `words`: cells hold text, not numbers."""
    head = "".join(map(_column, shown.columns))
    lines = [_line(f'<th scope="row">{escape(name)}</th>', cells) for name, *cells in shown.rows]
    return _table(shown, f"<tr>{head}</tr>", f"<tbody>{NEW_LINE.join(lines)}</tbody>", len(lines), words=words)


def joined_table(shown: JoinedTable, sets: Sequence[str]) -> str:
    """A table of several sets: each row has a line a set, under the colour that the set has in charts."""
    if len(sets) == 1 or len(shown.columns) == 2 or all(len(lines) == 1 for _, lines in shown.rows):
        return table(shown.flat())
    first, *others = shown.columns
    head = f'<tr>{_column(first)}<th scope="col" class="left">set</th>{"".join(map(_column, others))}</tr>'
    bodies = []
    for name, of_sets in shown.rows:
        lines = []
        for place, (one, cells) in enumerate(of_sets):
            group = "" if place else f'<th scope="rowgroup" rowspan="{len(of_sets)}">{escape(name)}</th>'
            owner = f'<th scope="row" class="set {colour(sets.index(one))}">{escape(one)}</th>'
            lines.append(_line(group + owner, cells))
        bodies.append(f"<tbody>{NEW_LINE.join(lines)}</tbody>")
    count = sum(len(lines) for _, lines in shown.rows)
    return _table(shown, head, NEW_LINE.join(bodies), count)


def charts(overlays: Sequence[Overlay], *, small: bool = False) -> str:
    """Histograms beside each other, those of one title and axis over the same bins."""
    figures = []
    for one in overlays:
        shown = one.distribution
        alike = [other.distribution for other in overlays if _kind(other.distribution) == _kind(shown)]
        edges = edges_of(alike)
        colours = [colour(owner) for owner in one.owners]
        legend = "".join(
            f'<li class="{of_series}"><b>{escape(name)}</b>: {escape(described(values, edges))}</li>'
            for of_series, (name, values) in zip(colours, shown.series.items(), strict=True)
        )
        figures.append(
            f"<figure><figcaption><strong>{escape(shown.title)}</strong></figcaption>"
            f'{histogram(shown, edges, colours)}<ul class="legend">{legend}</ul></figure>'
        )
    kind = "charts small" if small else "charts"
    return f'<div class="{kind}">{"".join(figures)}</div>' if figures else ""


def colour(owner: int | str) -> str:
    """The class of a series' colour."""
    return owner if isinstance(owner, str) else f"s{owner % 6}"


def gallery(shown: Gallery) -> str:
    """Rows of pictures; those that belong together stand on one ground."""
    rows = []
    for row in shown.rows:
        kind = "row several" if len(row) > 1 else "row"
        rows.append(f'<div class="{kind}">{"".join(map(picture, row))}</div>')
    note = paragraph(shown.note, "note") if shown.note else ""
    return "\n".join([f"<h3>{escape(shown.title)}</h3>", note, f'<div class="gallery">{"".join(rows)}</div>'])


def picture(shown: Picture) -> str:
    """An image inside the page, with what stands under it; of large ones, means over squares of pixels."""
    pixels, shrunk = shrink(shown.pixels)
    height, width = pixels.shape[:2]
    times = max(1, round(ENLARGED_WIDTH / width)) if width < ENLARGED_WIDTH else min(1.0, LARGEST_WIDTH / width)
    size = f'width="{width * times:.0f}" height="{height * times:.0f}"'
    kind = ' class="enlarged"' if times > 1 else ""
    lines = [escape(line) for line in shown.caption.splitlines()]
    lines += [f"1 of {shrunk} pixels each way"] if shrunk > 1 else []
    return (
        f'<figure class="picture"><img{kind} src="{data_uri(pixels)}" {size} alt="{", ".join(lines)}">'
        f"<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
    )


def shrink(pixels: Pixels) -> tuple[Pixels, int]:
    """Images of more than `STORED_WIDTH` pixels a side by a whole number, and that number."""
    times = -(-max(pixels.shape[:2]) // STORED_WIDTH)
    if times == 1:
        return pixels, 1
    height, width = (length // times for length in pixels.shape[:2])
    squares = pixels[: height * times, : width * times].reshape(height, times, width, times, -1)
    means = np.rint(squares.astype(np.float64).mean(axis=(1, 3))).astype(np.uint8)
    return np.ascontiguousarray(means.reshape(height, width, *pixels.shape[2:])), times


def step(shown: Step, name: str, digest: str) -> str:
    """One step of the provenance, its settings folded away."""
    called = f" → {escape(name)}" if name else ""
    facts = {"inputs": ", ".join(shown.inputs) or "none", "medgen": shown.version}
    facts |= {"seed": str(shown.seed)} if shown.seed is not None else {}
    facts |= {"digest": digest} if digest else {}
    title = f'<strong>{escape(shown.command)}</strong>{called} <span class="mono">{shown.id}</span>'
    return f"<details><summary>{title}</summary>{settings(facts | flattened(shown.config))}</details>"


def settings(values: Mapping[str, str]) -> str:
    """Names and values, line by line."""
    lines = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="settings">{lines}</dl>'


def flattened(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings by dotted names, as text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{before}{name}.")
        elif isinstance(value, list | tuple):
            flat[before + name] = ", ".join(map(_plain, value)) or "none"
        else:
            flat[before + name] = _plain(value)
    return flat


def counted(count: int, what: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _kind(distribution: Distribution) -> tuple[str, str]:
    return distribution.title, distribution.axis


def _column(name: str) -> str:
    """A head; it may be broken at spaces, but not at hyphens, which names of sets hold."""
    return f'<th scope="col">{escape(name).replace("-", "&#8209;")}</th>'


def _line(names: str, cells: Sequence[str]) -> str:
    return f"<tr>{names}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _table(shown: Table | JoinedTable, head: str, body: str, lines: int, *, words: bool = False) -> str:
    kinds = " ".join(["words"] * words + ["long"] * (lines > LONG_TABLE))
    kind = f' class="{kinds}"' if kinds else ""
    note = f'<figcaption class="note">{escape(shown.note)}</figcaption>' if shown.note else ""
    title = escape(shown.title[:1].upper() + shown.title[1:])
    return (
        f'<figure class="table"><div class="scroll" tabindex="0" role="group" aria-label="{title}">'
        f"<table{kind}><caption><span>{title}</span></caption>{NEW_LINE}<thead>{head}</thead>{NEW_LINE}{body}</table></div>{note}</figure>"
    )
