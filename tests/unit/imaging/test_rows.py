"""CSV files: what a spreadsheet would take for a formula is shielded, and every text is read back as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medgen.imaging.labels.rows import RowWriter, read_rows

ATTACKS = [
    *("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x","y")', "-cmd|' /C calc'!A0"),
    *("＝1+1", "＋1", "－1", "＠x"),
]


def written(path: Path, *rows: list[object]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = RowWriter(file)
        for row in rows:
            writer.write(row)
    return path


@pytest.mark.parametrize("text", ATTACKS)
def test_no_cell_begins_a_formula(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "a.csv", [text, "b"], [text, "x"])
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            assert row[0] == f"'{text}"


@pytest.mark.parametrize("text", ["-0.5", "+1", "-1e-05", "1", "a=b", "it's", "'tis", ""])
def test_numbers_and_harmless_texts_stay_as_they_are(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "a.csv", ["a", "b"], [text, "x"])
    assert path.read_text(encoding="utf-8") == f"a,b\n{text},x\n"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
@example(
    ["=1", "'=1", "''=1", "'", "''", " a ", "' a", "'a ", "\r", "\n", "\r\n", 'a"b', "a,b", "\t", "-1", "'-1", "-x"]
)
def test_every_text_is_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    written(path, ["text", "end"], *([text, "x"] for text in texts))
    assert [row["text"] for _, row in read_rows(path).rows] == texts


def test_spaces_around_what_a_person_typed_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(" text , end\n 'tis a nodule , x \n", encoding="utf-8")
    assert read_rows(path).rows == [(2, {"text": "'tis a nodule", "end": "x"})]
