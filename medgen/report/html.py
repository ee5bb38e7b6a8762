"""Pages from templates: no scripts, no external resources, everything escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

from medgen.evaluation.section import Panel, Pixels
from medgen.report.charts import described, edges_of, histogram
from medgen.report.png import data_uri
from medgen.report.side_by_side import Overlay

ENLARGED_WIDTH, LARGEST_WIDTH = 160, 240
"""Pixels on the screen: small images are enlarged a whole number of times, to about the first; none is shown larger
than the second."""
STORED_WIDTH = 512


@dataclass(frozen=True)
class Figure:
    """A chart with its legend: colour, name and summary of each series."""

    title: str
    chart: str
    legend: list[tuple[str, str, str]]


@dataclass(frozen=True)
class LaidOut:
    """A picture as placed in the page."""

    source: str
    width: str
    height: str
    enlarged: bool
    lines: list[str]


def render(template: str, **content: Any) -> str:
    """Render a template of this package with `content`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medgen.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(counted=counted, laid_out=laid_out)
    return environment.get_template(template).render(**content)


def figures(overlays: Sequence[Overlay]) -> list[Figure]:
    """Histograms; those with the same title and axis share their bins."""
    made = []
    for one in overlays:
        shown = one.distribution
        alike = [other.distribution for other in overlays if _axes(other) == _axes(one)]
        edges = edges_of(alike)
        colours = [colour(owner) for owner in one.owners]
        legend = [
            (of_series, name, described(values, edges))
            for of_series, (name, values) in zip(colours, shown.series.items(), strict=True)
        ]
        made.append(Figure(shown.title, histogram(shown, edges, colours), legend))
    return made


def colour(owner: int | str) -> str:
    """The class of a series' colour."""
    return owner if isinstance(owner, str) else f"s{owner % 6}"


def laid_out(shown: Panel) -> LaidOut:
    """An image embedded in the page, with its caption; large ones are reduced to means over squares of pixels."""
    pixels, shrunk = shrink(shown.pixels)
    height, width = pixels.shape[:2]
    times = max(1, round(ENLARGED_WIDTH / width)) if width < ENLARGED_WIDTH else min(1.0, LARGEST_WIDTH / width)
    lines = shown.caption.splitlines() + ([f"1 of {shrunk} pixels each way"] if shrunk > 1 else [])
    return LaidOut(data_uri(pixels), f"{width * times:.0f}", f"{height * times:.0f}", times > 1, lines)


def shrink(pixels: Pixels) -> tuple[Pixels, int]:
    """Shrink images of more than `STORED_WIDTH` pixels a side by an integer factor; returns that factor too."""
    times = -(-max(pixels.shape[:2]) // STORED_WIDTH)
    if times == 1:
        return pixels, 1
    height, width = (length // times for length in pixels.shape[:2])
    squares = pixels[: height * times, : width * times].reshape(height, times, width, times, -1)
    means = np.rint(squares.astype(np.float64).mean(axis=(1, 3))).astype(np.uint8)
    return np.ascontiguousarray(means.reshape(height, width, *pixels.shape[2:])), times


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


def _axes(overlay: Overlay) -> tuple[str, str]:
    return overlay.distribution.title, overlay.distribution.axis
