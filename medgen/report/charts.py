"""Histograms as inline SVG: axes with round ticks, one outline per sample, named marks.

Colours are classes (s0, s1, ...) defined in the page's style sheet, so that charts suit light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from medgen.evaluation.section import Distribution

Values = npt.NDArray[np.float64]

WIDTH, PLOT_HEIGHT = 440, 165
LEFT, RIGHT, BOTTOM = 50, 16, 44
MARK_LINE = 16
"""Height of one line of the names above the plot."""
LETTER = 6.6
"""Width of a letter of them, about."""
TAIL, STRETCH = 0.005, 3.0
"""Values beyond these quantiles are cut off where they would stretch the axis to more than so many times the rest."""


@dataclass(frozen=True)
class Span:
    """The range of the value axis, low to high."""

    low: float
    high: float


@dataclass(frozen=True)
class Plot:
    """Maps values (x) and shares in % (y) to the page, in pixels from its upper left corner."""

    span: Span
    top_share: float
    head: float

    @property
    def base(self) -> float:
        """The y position of the value axis."""
        return self.head + PLOT_HEIGHT

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.span.low) / (self.span.high - self.span.low)

    def y(self, share: float) -> float:
        """Pixels from the top."""
        return self.base - PLOT_HEIGHT * share / self.top_share


def histogram(distribution: Distribution, edges: Values | None = None, colours: Sequence[str] = ()) -> str:
    """An SVG of each series' share in each bin, with marks as named lines.

    `edges` (B + 1,) of the bins, for charts that are to be compared; `colours` are classes of the style sheet.
    """
    samples = [finite(values) for values in distribution.series.values()]
    edges = edges_of([distribution]) if edges is None else edges
    span = Span(float(edges[0]), float(edges[-1]))
    colours = colours or [f"s{place % 6}" for place in range(len(samples))]
    shares = [100 * np.histogram(values, edges)[0] / max(len(values), 1) for values in samples]
    marks = {name: place for name, place in distribution.marks.items() if math.isfinite(place)}
    lines = mark_lines(marks, span)
    head = 10 + MARK_LINE * (max(lines.values()) + 1 if lines else 0)
    plot = Plot(span, max([1e-9, *(float(share.max()) for share in shares)]) * 1.06, head)
    parts = _axes(plot, distribution.axis, whole=bool(edges[1] - edges[0] == 1.0 and edges[0] % 1 == 0.5))
    parts += [_outline(plot, share, edges, colour) for share, colour in zip(shares, colours, strict=True)]
    for name, place in marks.items():
        parts += _mark(name, plot, place, 12 + MARK_LINE * lines[name])
    label = escape(f"Histogram: {distribution.title}; {', '.join(distribution.series)}")
    box = f"0 0 {WIDTH} {plot.base + BOTTOM:.0f}"
    return f'<svg class="chart" role="img" aria-label="{label}" viewBox="{box}">{"".join(parts)}</svg>'


def span_of(distributions: Sequence[Distribution]) -> Span:
    """One span for distributions to be compared: all values and marks, except far tails."""
    values = np.concatenate([np.empty(0), *(finite(v) for one in distributions for v in one.series.values())])
    marks = [mark for one in distributions for mark in one.marks.values() if math.isfinite(mark)]
    if not len(values):
        values = np.array(marks or [0.0])
    low, high = float(values.min()), float(values.max())
    inner_low, inner_high = (float(q) for q in np.quantile(values, [TAIL, 1 - TAIL]))
    inner = inner_high - inner_low
    if inner > 0 and high - low > STRETCH * inner:
        low, high = max(low, inner_low - inner / 10), min(high, inner_high + inner / 10)
    low, high = min([low, *marks]), max([high, *marks])
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        reach = max(abs(low), 1.0) / 2
        return Span(low - reach, high + reach)
    return Span(low, high)


def described(values: Values, edges: Values) -> str:
    """A series in words: its median, middle 90 %, count, and what the chart leaves out."""
    kept = finite(values)
    if not len(kept):
        return "no finite value"
    low, middle, high = np.quantile(kept, [0.05, 0.5, 0.95])
    text = f"median {middle:.4g}, 5 to 95 %: {low:.4g} to {high:.4g}, n\u00a0=\u00a0{len(kept)}"
    beyond = int(((kept < edges[0]) | (kept > edges[-1])).sum())
    if beyond:
        text += f"; {beyond} beyond the axis (all: {kept.min():.4g} to {kept.max():.4g})"
    if len(kept) < np.size(values):
        text += f"; {np.size(values) - len(kept)} not finite"
    return text


def finite(values: Values) -> Values:
    """Values without NaN and infinity, flat."""
    flat = np.asarray(values, np.float64).ravel()
    return flat[np.isfinite(flat)]


def ticks(low: float, high: float, count: int = 6, least: float = 0.0) -> list[float]:
    """About `count` round values (1, 2 or 5 times a power of ten, and at least `least` apart) inside [low, high]."""
    rough = max((high - low) / count, least)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """Labels for the ticks of one axis: equal numbers of decimals, or powers of ten where these would be long."""
    step = values[1] - values[0] if len(values) > 1 else max(abs(values[0]), 1.0) if values else 1.0
    if max(map(abs, values), default=0.0) >= 1e6 or step < 1e-4:
        return [f"{value:.3g}".replace("-", "−") for value in values]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "−") for value in values]


def edges_of(distributions: Sequence[Distribution]) -> Values:
    """Bin edges for all of them, by Freedman and Diaconis (1981); if there are few integers, each gets a bin."""
    span = span_of(distributions)
    samples = [finite(values) for one in distributions for values in one.series.values()]
    values = np.concatenate([np.empty(0), *samples])
    values = values[(values >= span.low) & (values <= span.high)]
    if len(values) and (values == np.rint(values)).all() and span.high - span.low <= 48:
        return np.asarray(np.arange(math.floor(span.low), math.ceil(span.high) + 2) - 0.5, np.float64)
    quarters = np.quantile(values, [0.25, 0.75]) if len(values) else np.zeros(2)
    width = 2 * float(quarters[1] - quarters[0]) / max(len(values) / max(len(samples), 1), 1.0) ** (1 / 3)
    count = math.ceil((span.high - span.low) / width) if width > 0 else 20
    return np.asarray(np.linspace(span.low, span.high, min(max(count, 8), 48) + 1), np.float64)


def mark_lines(marks: Mapping[str, float], span: Span) -> dict[str, int]:
    """The text line above the plot on which each mark's name fits beside the others."""
    plot, taken, lines = Plot(span, 1.0, 0.0), list[list[tuple[float, float]]](), dict[str, int]()
    for name, place in sorted(marks.items(), key=lambda item: item[1]):
        left, right = _name_extent(name, plot.x(place))
        number = 0
        while number < len(taken) and any(left < b + 6 and right > a - 6 for a, b in taken[number]):
            number += 1
        if number == len(taken):
            taken.append([])
        taken[number].append((left, right))
        lines[name] = number
    return lines


def _name_extent(name: str, x: float) -> tuple[float, float]:
    """A mark's name is to the right of its line, or to the left if it would leave the chart."""
    width = LETTER * len(name) + 5
    return (x, x + width) if x + width <= WIDTH else (x - width, x)


def _mark(name: str, plot: Plot, place: float, y: float) -> list[str]:
    x = plot.x(place)
    left = _name_extent(name, x)[0] < x
    side = f'x="{x - 5:.1f}" text-anchor="end"' if left else f'x="{x + 5:.1f}"'
    return [
        f'<path class="mark" d="M{x:.1f} {y - 9:.1f}V{plot.base:.1f}"/>',
        f'<text class="name" {side} y="{y:.1f}">{escape(name)}</text>',
    ]


def _axes(plot: Plot, axis: str, *, whole: bool) -> list[str]:
    parts = []
    shares = ticks(0.0, plot.top_share, 4)
    for value, text in zip(shares, tick_texts(shares), strict=True):
        y = plot.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    values = ticks(plot.span.low, plot.span.high, least=1.0 if whole else 0.0)
    parts.append(f'<path class="axis" d="M{LEFT} {plot.base:.1f}H{WIDTH - RIGHT}"/>')
    for value, text in zip(values, tick_texts(values), strict=True):
        x = plot.x(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {plot.base:.1f}v5"/>')
        parts.append(f'<text x="{x:.1f}" y="{plot.base + 18:.1f}" text-anchor="middle">{text}</text>')
    x, y = (LEFT + WIDTH - RIGHT) / 2, plot.base - PLOT_HEIGHT / 2
    parts.append(f'<text class="label" x="{x:.1f}" y="{plot.base + 37:.1f}" text-anchor="middle">{escape(axis)}</text>')
    turned = f'transform="translate(13 {y:.1f}) rotate(-90)"'
    parts.append(f'<text class="label" {turned} text-anchor="middle">share (%)</text>')
    return parts


def _outline(plot: Plot, shares: Values, edges: Values, colour: str) -> str:
    """The steps of one series."""
    steps = [f"M{plot.x(float(edges[0])):.1f} {plot.base:.1f}"]
    for share, right in zip(shares, edges[1:], strict=True):
        steps.append(f"V{plot.y(float(share)):.1f}H{plot.x(float(right)):.1f}")
    return f'<path class="series {colour}" d="{"".join(steps)}V{plot.base:.1f}"/>'
