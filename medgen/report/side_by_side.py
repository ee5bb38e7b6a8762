"""Results of several sets in one table or chart: rows below each other, series over each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from medgen.evaluation.section import Distribution, Section, Table

MOST_SERIES = 6
COMMON = "common"
"""What a series belongs to that all sets share, such as the reference."""


@dataclass(frozen=True)
class JoinedTable:
    """A table with one line per set in each row: (name of the row, [(set, cells), ...])."""

    title: str
    columns: tuple[str, ...]
    """The column of row names, and those of the cells."""
    rows: list[tuple[str, list[tuple[str, list[str]]]]]
    note: str = ""

    def flat(self) -> Table:
        """The same as plain rows: the sets as a column of their own, or as columns where there is one cell a set."""
        sets = list(dict.fromkeys(name for _, lines in self.rows for name, _ in lines))
        first, *others = self.columns
        if len(sets) == 1:
            return Table(self.title, self.columns, [[name, *lines[0][1]] for name, lines in self.rows], self.note)
        if len(others) == 1:
            cells = [(name, {one: values[0] for one, values in lines}) for name, lines in self.rows]
            rows = [[name, *(values.get(one, "-") for one in sets)] for name, values in cells]
            return Table(f"{self.title}: {others[0]}" if others[0] else self.title, (first, *sets), rows, self.note)
        rows = []
        for name, lines in self.rows:
            rows += [["" if place else name, one, *values] for place, (one, values) in enumerate(lines)]
        return Table(self.title, (first, "set", *others), rows, self.note)


def join_sections(sections: Sequence[tuple[str, Section]]) -> list[JoinedTable]:
    """The tables of one metric for the named sets, joined where their columns agree apart from text in brackets."""
    joined: list[JoinedTable] = []
    for row in zip_longest(*([(name, table) for table in section.tables] for name, section in sections)):
        present = [item for item in row if item is not None]
        if len({tuple(map(bare, table.columns)) for _, table in present}) == 1:
            joined.append(join_tables(present))
        else:
            joined += [join_tables([(name, table)], title=f"{name}: {table.title}") for name, table in present]
    return joined


def join_tables(tables: Sequence[tuple[str, Table]], title: str = "") -> JoinedTable:
    """Tables with equal columns joined into one; rows keep the order in which they first appear."""
    rows: dict[tuple[str, int], list[tuple[str, list[str]]]] = {}
    for name, table in tables:
        seen: dict[str, int] = {}
        for first, *cells in table.rows:
            seen[first] = seen.get(first, 0) + 1  # rows with the same name are matched by position
            rows.setdefault((first, seen[first]), []).append((name, cells))
    every = [table.columns for _, table in tables]
    columns = every[0] if len(set(every)) == 1 else tuple(map(bare, every[0]))
    notes = list(dict.fromkeys(table.note for _, table in tables if table.note))
    if columns != every[0]:
        notes += [
            f"{name}: {', '.join(column for column in table.columns if '(' in column)}." for name, table in tables
        ]
    return JoinedTable(
        title or " / ".join(dict.fromkeys(table.title for _, table in tables)),
        columns,
        [(first, lines) for (first, _), lines in rows.items()],
        " ".join(notes),
    )


def warnings_of(sections: Sequence[tuple[str, Section]]) -> list[str]:
    """Warnings of one metric: those common to all sets once, the others with their set."""
    shared = set.intersection(*(set(section.warnings) for _, section in sections))
    told = [warning for warning in sections[0][1].warnings if warning in shared]
    for name, section in sections:
        told += [f"{name}: {warning}" for warning in section.warnings if warning not in shared]
    return told


@dataclass(frozen=True)
class Overlay:
    """A distribution, and the set that each of its series belongs to (COMMON, or its number)."""

    distribution: Distribution
    owners: tuple[int | str, ...]


def overlay(sections: Sequence[tuple[str, Section]]) -> list[Overlay]:
    """Distributions with one title overlaid, common series once; side by side if there are too many."""
    found: dict[tuple[str, str], list[tuple[int, str, Distribution]]] = {}
    for number, (name, section) in enumerate(sections):
        for one in section.distributions:
            found.setdefault((one.title, one.axis), []).append((number, name, one))
    result = []
    for several in found.values():
        merged = _merged(several)
        if len(sections) == 1 or len(merged.owners) > MOST_SERIES or merged.owners.count(0) > 1:
            for _, name, one in several:
                named = one.series if len(sections) == 1 else {f"{name}: {key}": v for key, v in one.series.items()}
                shown = Distribution(one.title, one.axis, named, one.marks)
                result.append(Overlay(shown, tuple(range(len(named)))))
        else:
            result.append(merged)
    return result


def _merged(several: Sequence[tuple[int, str, Distribution]]) -> Overlay:
    first = several[0][2]
    common = {
        key: values
        for key, values in first.series.items()
        if len(several) > 1
        and all(key in one.series and np.array_equal(one.series[key], values) for _, _, one in several)
    }
    own = [
        (number, name if len(one.series) - len(common) == 1 else f"{name}: {key}", values)
        for number, name, one in several
        for key, values in one.series.items()
        if key not in common
    ]
    same = {key: at for key, at in first.marks.items() if all(one.marks.get(key) == at for _, _, one in several)}
    marks = {f"{key}, {name}": at for _, name, one in several for key, at in one.marks.items() if key not in same}
    series = {**common, **{name: values for _, name, values in own}}
    owners: tuple[int | str, ...] = (*(COMMON for _ in common), *(number for number, _, _ in own))
    return Overlay(Distribution(first.title, first.axis, series, {**same, **marks}), owners)


def bare(column: str) -> str:
    """A column's name without brackets at its end, such as a number of samples."""
    return re.sub(r"\s*\([^()]*\)$", "", column)
