"""The parts of the report's page as HTML: no script, nothing from outside, everything escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from medgen.artifacts.provenance import Step
from medgen.metrics.charts import described, histogram, span_of
from medgen.metrics.png import data_uri
from medgen.metrics.section import Distribution, Gallery, Picture
from medgen.metrics.side_by_side import JoinedTable

SHOWN_WIDTH = 176
"""Small images are enlarged a whole number of times, to about this width; large ones are shown this wide."""
LONG_TABLE = 30
"""Rows above which a table may be cut by the end of a printed page."""
SETTINGS_SHOWN = 60


def page(title: str, body: Sequence[str]) -> str:
    """The whole document."""
    style = resources.files("medgen.metrics").joinpath("report.css").read_text(encoding="utf-8")
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


def table(joined: JoinedTable, *, words: bool = False) -> str:
    """A table; columns of several sets stand under their names. `words`: cells hold text, not numbers."""
    first, *others = joined.columns
    width = len(others)
    several = len(joined.groups) > 1
    head = []
    if several and width == 1:
        cells = "".join(f'<th scope="col">{escape(group)}</th>' for group in joined.groups)
        head.append(f'<tr><th scope="col">{escape(first)}</th>{cells}</tr>')
    else:
        if several:
            groups = "".join(
                f'<th class="part" scope="colgroup" colspan="{width}">{escape(name)}</th>' for name in joined.groups
            )
            head.append(f'<tr class="groups"><td></td>{groups}</tr>')
        names = "".join(
            f'<th scope="col"{_part(place, width, several)}>{escape(name)}</th>'
            for place, name in enumerate(others * len(joined.groups))
        )
        head.append(f'<tr><th scope="col">{escape(first)}</th>{names}</tr>')
    lines = []
    for name, *cells_of_row in joined.rows:
        cells = "".join(
            f"<td{_part(place, width, several and width > 1)}>{escape(cell)}</td>"
            for place, cell in enumerate(cells_of_row)
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    kinds = " ".join(["words"] * words + ["long"] * (len(lines) > LONG_TABLE))
    note = f'\n<figcaption class="note">{escape(joined.note)}</figcaption>' if joined.note else ""
    return (
        f'<figure class="table"><div class="scroll" tabindex="0" role="group" aria-label="{escape(joined.title)}">'
        f"<table{f' class={kinds!r}' if kinds else ''}><caption>{escape(joined.title)}</caption>\n"
        f"<thead>{''.join(head)}</thead>\n<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>{note}</figure>"
    )


def charts(distributions: Sequence[Distribution]) -> str:
    """Histograms beside each other, those of one axis over the same span."""
    if not distributions:
        return ""
    figures = []
    for one in distributions:
        span = span_of([other for other in distributions if (other.title, other.axis) == (one.title, one.axis)])
        legend = "".join(
            f'<li class="s{place % 6}"><b>{escape(name)}</b>: {escape(described(values, span))}</li>'
            for place, (name, values) in enumerate(one.series.items())
        )
        figures.append(
            f"<figure><figcaption><strong>{escape(one.title)}</strong></figcaption>{histogram(one, span)}"
            f'<figcaption><ul class="legend">{legend}</ul></figcaption></figure>'
        )
    return f'<div class="charts">{"".join(figures)}</div>'


def gallery(shown: Gallery) -> str:
    """Rows of pictures; those that belong together stand on one ground."""
    rows = []
    for row in shown.rows:
        kind = "row several" if len(row) > 1 else "row"
        rows.append(f'<div class="{kind}">{"".join(map(picture, row))}</div>')
    note = paragraph(shown.note, "note") if shown.note else ""
    return "\n".join([f"<h3>{escape(shown.title)}</h3>", note, f'<div class="gallery">{"".join(rows)}</div>'])


def picture(shown: Picture) -> str:
    """An image inside the page, with what stands under it."""
    height, width = shown.pixels.shape[:2]
    times = max(1, round(SHOWN_WIDTH / width)) if width < SHOWN_WIDTH else SHOWN_WIDTH / width
    size = f'width="{width * times:.0f}" height="{height * times:.0f}"'
    kind = ' class="enlarged"' if times > 1 else ""
    lines = [escape(line) for line in shown.caption.splitlines()]
    return (
        f'<figure class="picture"><img{kind} src="{data_uri(shown.pixels)}" {size} alt="{", ".join(lines)}">'
        f"<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
    )


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
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in values.items())
    return f'<dl class="settings">{lines}</dl>'


def flattened(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings by dotted names, as text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
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


def _part(place: int, width: int, several: bool) -> str:
    """The first column of each set stands a little apart."""
    return ' class="part"' if several and place % width == 0 else ""
