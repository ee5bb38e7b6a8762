from __future__ import annotations

import numpy as np

from medgen.evaluation.section import Distribution, Section, Table
from medgen.report.side_by_side import COMMON, join_sections, overlay, warnings_of


def section(table: Table, *warnings: str, **series: list[float]) -> Section:
    values = {name: np.array(value, np.float64) for name, value in series.items()}
    distributions = [Distribution("distance", "mm", values, {"median": 1.0})] if series else []
    return Section("m", "M", {}, [table], list(warnings), distributions)


def test_rows_of_several_sets_stand_below_each_other() -> None:
    a = section(Table("t", ("", "mean", "std"), [["x", "1", "2"], ["y", "3", "4"]], "Note."))
    b = section(Table("t", ("", "mean", "std"), [["y", "5", "6"], ["z", "7", "8"]], "Note."))
    (joined,) = join_sections([("a", a), ("b", b)])
    assert joined.rows == [
        ("x", [("a", ["1", "2"])]),
        ("y", [("a", ["3", "4"]), ("b", ["5", "6"])]),
        ("z", [("b", ["7", "8"])]),
    ]
    assert joined.note == "Note."
    flat = joined.flat()
    assert flat.columns == ("", "set", "mean", "std")
    assert flat.rows[1:3] == [["y", "a", "3", "4"], ["", "b", "5", "6"]]


def test_one_column_a_set_becomes_one_column_each() -> None:
    a, b = (section(Table("t", ("", "value"), [["x", cell]])) for cell in "12")
    flat = join_sections([("a", a), ("b", b)])[0].flat()
    assert flat.columns == ("", "a", "b")
    assert flat.rows == [["x", "1", "2"]]


def test_what_stands_in_brackets_may_differ() -> None:
    a = section(Table("t", ("", "all (12)", "95 %"), [["x", "1", "2"]]))
    b = section(Table("t", ("", "all (9)", "95 %"), [["x", "3", "4"]]))
    (joined,) = join_sections([("a", a), ("b", b)])
    assert joined.columns == ("", "all", "95 %")
    assert joined.note == "a: all (12). b: all (9)."


def test_tables_of_other_columns_stay_apart() -> None:
    a = section(Table("t", ("", "mean"), [["x", "1"]]))
    b = section(Table("t", ("", "median"), [["x", "3"]]))
    assert [joined.title for joined in join_sections([("a", a), ("b", b)])] == ["a: t", "b: t"]


def test_rows_of_one_name_keep_their_places() -> None:
    rows = [["x", "1"], ["x", "2"]]
    (joined,) = join_sections([("a", section(Table("t", ("", "v"), rows)))])
    assert joined.flat().rows == rows


def test_what_all_sets_share_is_drawn_once() -> None:
    table = Table("t", ("", "v"), [])
    a, b = section(table, real=[1, 2], samples=[3]), section(table, real=[1, 2], samples=[4])
    (merged,) = overlay([("a", a), ("b", b)])
    assert list(merged.distribution.series) == ["real", "a", "b"]
    assert merged.owners == (COMMON, 0, 1)
    assert merged.distribution.marks == {"median": 1.0}


def test_several_series_of_their_own_stay_apart() -> None:
    table = Table("t", ("", "v"), [])
    a, b = section(table, u=[1], v=[2]), section(table, u=[3], v=[4])
    assert [list(one.distribution.series) for one in overlay([("a", a), ("b", b)])] == [
        ["a: u", "a: v"],
        ["b: u", "b: v"],
    ]
    (alone,) = overlay([("a", a)])
    assert list(alone.distribution.series) == ["u", "v"]


def test_shared_warnings_are_told_once() -> None:
    table = Table("t", ("", "v"), [])
    found = [("a", section(table, "few", "odd")), ("b", section(table, "few"))]
    assert warnings_of(found) == ["few", "a: odd"]
