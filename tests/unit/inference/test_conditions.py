from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.artifacts.sets import open_set
from medgen.errors import DataError, InputMissingError, UsageError
from medgen.inference.conditions.vectors import parse_vector, read_csv, slices_like, spread_order, vectors_like

FIELDS = ("has_nodule", "x", "y")


def test_named_fields_are_set_and_others_are_zero() -> None:
    np.testing.assert_array_equal(parse_vector("y=0.5, has_nodule=1", FIELDS), np.array([1, 0, 0.5], np.float32))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("has_nodul=1", "unknown vector field 'has_nodul'; did you mean 'has_nodule'"),
        ("x", "'x' is not name=value"),
        ("x=1.5", r"x=1.5 lies outside \[0, 1\]"),
        ("x=-0.1", "outside"),
        ("x=nan", "outside"),
        ("x=much", "not a number"),
        ("x=", "empty"),
        ("x=0,x=1", "given twice"),
    ],
)
def test_what_is_wrong_with_a_vector_is_said(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_vector(text, FIELDS)


@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_any_vector_survives_being_written(values: list[float]) -> None:
    text = ",".join(f"{name}={value!r}" for name, value in zip(FIELDS, values, strict=True))
    np.testing.assert_array_equal(parse_vector(text, FIELDS), np.array(values, np.float32))


def test_csv_columns_go_by_name(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("Y,Has_Nodule\n0.25,1\n\n0.5,0\n", encoding="utf-8")
    np.testing.assert_array_equal(read_csv(path, FIELDS), np.array([[1, 0, 0.25], [0, 0, 0.5]], np.float32))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x,y\n0.1,0.2\n0.3,1.2\n", r"row 3: y=1.2 lies outside"),
        ("x,y\n0.1\n", "row 2: 1 cells, the header has 2"),
        ("x,yy\n0.1,0.2\n", "header: unknown vector field 'yy'; did you mean 'y'"),
        ("x,X\n0.1,0.2\n", "columns 'x' and 'X' mean the same"),
        ("x;y\n0.1;0.2\n", "separated by semicolons; save it with commas"),
        ("x,y\n", "holds no rows"),
        ("", "holds no rows"),
        ("x\nNaN\n", "row 2: x=NaN lies outside"),
    ],
)
def test_what_is_wrong_with_a_csv_is_said_by_row(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "c.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=reason):
        read_csv(path, FIELDS)


def test_a_missing_csv_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        read_csv(tmp_path / "none.csv", FIELDS)


@given(st.integers(1, 30), st.integers(1, 60))
def test_spreading_covers_evenly(n: int, count: int) -> None:
    rows = spread_order(n, count)
    assert len(rows) == count
    times = np.bincount(rows, minlength=n)
    assert times.max() - times.min() <= 1
    if count <= n:
        assert (np.diff(rows) > 0).all()


def test_like_takes_fields_by_name_and_splits(tiny: Path) -> None:
    with open_set(tiny / "images.h5", random_access=True) as stored:
        everything = stored.column("vector")
        np.testing.assert_array_equal(vectors_like(stored, ("y", "x"), slices_like(stored)), everything[:, [2, 1]])
        assert slices_like(stored, "val") == [3, 6, 7, 8, 9]
        np.testing.assert_array_equal(vectors_like(stored, ("x",), [9, 3]), everything[[9, 3], 1:2])
        with pytest.raises(DataError, match="lacks the vector fields z"):
            vectors_like(stored, ("x", "z"), [0])
        with pytest.raises(DataError, match="no slice in split 'test'"):
            slices_like(stored, "test")
