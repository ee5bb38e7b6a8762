"""Tables of several sets as one: a group of columns a set, over the rows that any of them has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from medgen.metrics.section import Section, Table

ABSENT = "-"


@dataclass(frozen=True)
class JoinedTable:
    """A table whose columns after the first repeat once for each of `groups`."""

    title: str
    groups: tuple[str, ...]
    columns: tuple[str, ...]
    """The first column, and those of every group."""
    rows: list[list[str]]
    note: str = ""

    def flat(self) -> Table:
        """The same with the group's name in each column's; without, where there is one group."""
        first, *others = self.columns
        names = [f"{group}: {name}" if len(self.groups) > 1 else name for group in self.groups for name in others]
        return Table(self.title, (first, *names), self.rows, self.note)


def join_sections(sections: Sequence[tuple[str, Section]]) -> list[JoinedTable]:
    """The tables of one metric for the named sets, side by side where their columns agree."""
    joined: list[JoinedTable] = []
    for row in zip_longest(*([(name, table) for table in section.tables] for name, section in sections)):
        present = [item for item in row if item is not None]
        if len({table.columns for _, table in present}) == 1:
            joined.append(join_tables(present))
        else:
            joined += [join_tables([(name, table)], named=True) for name, table in present]
    return joined


def join_tables(tables: Sequence[tuple[str, Table]], *, named: bool = False) -> JoinedTable:
    """Tables of equal columns as one; rows keep the order in which they first appear.

    `named`: the title tells the set.
    """
    titles = list(dict.fromkeys(table.title for _, table in tables))
    names = list(dict.fromkeys(row[0] for _, table in tables for row in table.rows))
    width = len(tables[0][1].columns) - 1
    if any(len({row[0] for row in table.rows}) < len(table.rows) for _, table in tables):
        rows = _row_by_row([table for _, table in tables], width)
    else:
        cells = [{row[0]: row[1:] for row in table.rows} for _, table in tables]
        rows = [[name, *(cell for column in cells for cell in column.get(name, [ABSENT] * width))] for name in names]
    title = " / ".join(titles)
    return JoinedTable(
        title=f"{tables[0][0]}: {title}" if named else title,
        groups=tuple(name for name, _ in tables),
        columns=tables[0][1].columns,
        rows=rows,
        note=" ".join(dict.fromkeys(table.note for _, table in tables if table.note)),
    )


def _row_by_row(tables: Sequence[Table], width: int) -> list[list[str]]:
    """Where rows share their names, their places tell which belong together."""
    rows = []
    for row in zip_longest(*(table.rows for table in tables)):
        name = next(cells[0] for cells in row if cells is not None)
        rows.append([name, *(cell for cells in row for cell in (cells[1:] if cells else [ABSENT] * width))])
    return rows
