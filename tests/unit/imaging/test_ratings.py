"""The ratings file: nothing said is lost, half lines are mended, the last word counts."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from medgen.errors import DataError, InputMissingError, OutputError, StorageError
from medgen.imaging.labels.ratings import COLUMNS, NEEDED, Rating, RatingsFile, parse_ratings, read_ratings

HEADER, OLD_HEADER = ((",".join(names) + "\n").encode() for names in (COLUMNS, NEEDED))


def rating(
    case: str = "a", value: float | None = 3.0, rater: str = "anna", other: str = "", aspect: str = "overall"
) -> Rating:
    return Rating("f00d", rater, case, other, aspect, value)


def test_what_is_added_is_read(tmp_path: Path) -> None:
    said = [
        rating("a", 1),
        rating('b, or "not"', 5, " =Dr. Ö'"),
        rating("'=c", 2, "+1"),
        rating("a", 0.5, other="b"),
        rating("a", 0, aspect="real"),
    ]
    with RatingsFile(tmp_path / "r.csv") as file:
        for one in said:
            file.add(one)
    read = read_ratings(tmp_path / "r.csv")
    assert read.values == {one.key: one.value for one in said}
    assert not read.half_line
    assert read.replaced == 0


def test_no_spreadsheet_takes_a_name_for_a_formula(tmp_path: Path) -> None:
    with RatingsFile(tmp_path / "r.csv") as file:
        file.add(rating("=HYPERLINK(1)", 1, "@rater"))
    assert (tmp_path / "r.csv").read_text().splitlines()[1] == "f00d,'@rater,'=HYPERLINK(1),,overall,1,"


def test_a_line_break_in_a_name_is_refused() -> None:
    assert rating("a", 3, "two\nlines").fault()
    assert rating("a\rb", 3).fault()


def test_the_last_one_counts_and_one_without_a_value_takes_it_back(tmp_path: Path) -> None:
    with RatingsFile(tmp_path / "r.csv") as file:
        for one in (
            rating("a", 1),
            rating("b", 2),
            rating("a", 4),
            rating("b", None),
            rating("b", rater="otto", value=5),
        ):
            file.add(one)
    read = read_ratings(tmp_path / "r.csv")
    assert [(key[1], key[2], value) for key, value in read.values.items()] == [("anna", "a", 4), ("otto", "b", 5)]
    assert read.replaced == 1


def test_a_comparison_is_the_same_from_both_sides(tmp_path: Path) -> None:
    with RatingsFile(tmp_path / "r.csv") as file:
        file.add(rating("b", 1.0, other="a"))
        assert read_ratings(tmp_path / "r.csv").values == {("f00d", "anna", "a", "b", "overall"): 0.0}
        file.add(rating("a", 1.0, other="b"))
    assert list(read_ratings(tmp_path / "r.csv").values.values()) == [1.0]


@pytest.mark.parametrize("cut", range(2, 25))
def test_half_a_line_is_removed_wherever_a_crash_cut_it(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.csv"
    with RatingsFile(path) as file:
        file.add(rating("first"))
        whole = path.stat().st_size
        file.add(rating("second"))
    os.truncate(path, path.stat().st_size - cut)
    assert path.stat().st_size > whole
    assert read_ratings(path).half_line
    with RatingsFile(path) as file:
        assert file.repaired
        assert [key[2] for key in file.ratings.values] == ["first"]
        file.add(rating("third"))
    assert [key[2] for key in read_ratings(path).values] == ["first", "third"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"f,anna,a,,overall\n", "line 3: 5 fields, expected 6"),
        (b"f,anna,a,,overall,good\n", "value 'good' is not a number"),
        (b"f,anna,a,,overall,6\n", "value 6 is not one of 1, 2, 3, 4, 5"),
        (b"f,anna,a,,overall,2.5\n", "value 2.5 is not one of"),
        (b"f,anna,a,,overall,nan\n", "value nan is not one of"),
        (b"f,anna,a,b,overall,2\n", "value 2 is not one of 0, 0.5, 1"),
        (b"f,anna,a,,real,0.5\n", "value 0.5 is not one of 0, 1"),
        (b"f,anna,\xff,,overall,3\n", "not a CSV file in UTF-8"),
        (b"f,,a,,overall,3\n", "its rater is empty"),
        (b"f,anna,a,a,overall,1\n", "it compares a case with itself"),
    ],
)
def test_a_line_that_is_no_rating_is_named(line: bytes, told: str) -> None:
    with pytest.raises(DataError, match="ratings.csv.*" + told.replace(".", r"\.")):
        parse_ratings(OLD_HEADER + b"f,anna,a,,overall,3\n" + line, "ratings.csv")


def test_a_foreign_file_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"case,label\na,normal\nhalf a li")
    with pytest.raises(DataError, match="expected the columns set,rater"):
        RatingsFile(path)
    assert path.read_bytes() == b"case,label\na,normal\nhalf a li"
    with pytest.raises(InputMissingError):
        read_ratings(tmp_path / "none.csv")
    with pytest.raises(OutputError, match="cannot be written"):
        RatingsFile(tmp_path / "no folder" / "r.csv")


SAID = {("f", "anna", "a", "", "overall"): 3.0, ("f", "Dr. B, MD", "b", "", "overall"): 4.0}


@pytest.mark.parametrize(
    "data",
    [
        b'\xef\xbb\xbfset,rater,case,other,aspect,value\r\nf,anna,a,,overall,3\r\n\r\nf,"Dr. B, MD",b,,overall,4\r\n',
        b'Value,case,note,rater,set,aspect,other\n3,a,"see, above",anna,f,overall,\n4,b,,"Dr. B, MD",f,overall,\n',
        b'set,rater,case,other,aspect,value\nf,anna,a,,overall,3\nf,"Dr. B, MD",b,,overall,4',
        b"set,rater,case,other,aspect,value,when\nf,anna,a,,overall,3,\n"
        b'f,"Dr. B, MD",b,,overall,4,2026-01-31T13:45:00Z',
    ],
    ids=["byte order mark, CRLF, empty line", "other order", "no line break at the end", "nor behind the time"],
)
def test_a_table_that_another_program_saved_is_read_and_added_to(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(data)
    read = read_ratings(path)
    assert read.values == SAID
    assert not read.half_line
    with RatingsFile(path) as file:
        assert not file.repaired
        file.add(rating("c", 5))
    assert path.read_bytes().startswith(data)
    assert read_ratings(path).values == SAID | {rating("c").key: 5}


@pytest.mark.parametrize("line", [b"f,anna,a,b,overall,0", b"f,anna,a,,overall,", b'f,anna,"a'])
def test_what_may_be_cut_short_is_half_a_line(line: bytes) -> None:
    read = parse_ratings(OLD_HEADER + line, "r.csv")
    assert (read.values, read.half_line) == ({}, True)


@pytest.mark.parametrize("data", [b"no line break", b"set,rater\rf,anna\r", HEADER.replace(b",", b";")])
def test_a_file_that_holds_no_ratings_is_not_emptied(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"expected the columns|separated by semicolons"):
        RatingsFile(path)
    assert path.read_bytes() == data


def _add_many(path: Path, rater: str) -> None:
    with RatingsFile(path) as file:
        for number in range(100):
            file.add(rating(f"case-{number}", rater=rater))


def test_several_raters_may_fill_one_file_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    raters = [context.Process(target=_add_many, args=(tmp_path / "r.csv", name)) for name in ("anna", "otto", "ida")]
    for one in raters:
        one.start()
    for one in raters:
        one.join()
    read = read_ratings(tmp_path / "r.csv")
    assert len(read.values) == 300
    assert (tmp_path / "r.csv").read_bytes().count(HEADER) == 1


def _fill(path: Path) -> None:
    with RatingsFile(path) as file:
        file.add(rating("fits"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, resource.RLIM_INFINITY))
        with pytest.raises(StorageError, match="was not written"):
            file.add(rating("does not fit"))


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_fill, args=(tmp_path / "r.csv",))
    child.start()
    child.join()
    assert child.exitcode == 0
    read = read_ratings(tmp_path / "r.csv")
    assert [key[2] for key in read.values] == ["fits"]
    assert not read.half_line


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def saved_anew(path: Path) -> None:
    """As editors and spreadsheets save: a new file under the old name."""
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [Path.unlink, emptied, saved_anew])
def test_nothing_is_written_to_a_file_that_nobody_will_find(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with RatingsFile(path) as file:
        file.add(rating("a", 1))
        change(path)
        before = path.read_bytes() if path.exists() else None
        for _ in range(2):
            with pytest.raises(StorageError, match=r"r\.csv: the rating was not written: the file was deleted, repl"):
                file.add(rating("b", 2))
        assert (path.read_bytes() if path.exists() else None) == before
    with RatingsFile(path) as file:
        file.add(rating("b", 2))
    assert rating("b").key in read_ratings(path).values


def test_ratings_are_kept_in_files_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(OutputError, match="is not a file that ratings can be kept in"):
            RatingsFile(place)
