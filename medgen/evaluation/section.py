"""What a metric returns: numbers for programs, and tables, distributions and pictures for people.

A metric only measures. The command prints the tables, writes `result` as JSON, and `report` draws the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    note: str = ""
    """One sentence on how to read it."""


@dataclass(frozen=True)
class Distribution:
    """A distribution of values: one or more named samples (N,) on one axis, and values to mark on it."""

    title: str
    axis: str
    series: dict[str, Values]
    marks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """An image (H, W) or (H, W, 3) with its caption."""

    pixels: Pixels
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures that belong side by side: a worst case and its reference, a sample and its nearest neighbour."""

    title: str
    rows: list[list[Panel]]
    note: str = ""


@dataclass(frozen=True)
class Score:
    """One number per sample, by case id (and slice, as `id/3`, where a case has several), for paired comparisons."""

    title: str
    better: Literal["higher", "lower"]
    values: dict[str, float]


@dataclass(frozen=True)
class Section:
    """Everything one metric found out about one set."""

    name: str
    title: str
    result: dict[str, Any]
    """JSON values; no NaN or infinity."""
    tables: list[Table]
    warnings: list[str] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    scores: dict[str, Score] = field(default_factory=dict)
    """By the name that the score has in `result`."""


def number(value: float | None, digits: int = 4) -> str:
    """A value for a table; - where there is none."""
    return "-" if value is None else f"{value:.{digits}g}"


def interval(value: Mapping[str, float | None] | None, digits: int = 4) -> str:
    """A value with its interval, `{value, low, high}`, for a table; the value alone where it has none."""
    if value is None:
        return "-"
    if value["low"] is None:
        return number(value["value"], digits)
    return f"{value['value']:.{digits}g} ({value['low']:.{digits}g} to {value['high']:.{digits}g})"


def percent(rate: dict[str, float] | None) -> str:
    """A rate with its interval, as percentages, for a table."""
    if rate is None:
        return "-"
    return f"{100 * rate['value']:.0f} % ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})"
