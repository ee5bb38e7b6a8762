"""Labels find their slices, and every fault is told with its row."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medgen.errors import DataError
from medgen.imaging.labels.annotations import NODULE_FIELDS, Annotation
from medgen.imaging.labels.names import CaseNames
from medgen.imaging.labels.table import apply, read_table, unused_warning
from medgen.imaging.reading.archive import enumerate_sources
from medgen.imaging.reading.formats import scan
from medgen.imaging.reading.series import SliceStack, build_stacks

IDS = ["a" * 16, "b" * 16, "b" * 16]  # the third shows the pixels of the second
HEADER = "case,slice,has_nodule,x,y,size,malignancy,texture\n"


@pytest.fixture
def stacks(write_slice: Callable[..., Path], tmp_path: Path) -> list[SliceStack]:
    """Two series of three slices, in folders `alpha` and `beta`."""
    for number, name in enumerate(("alpha", "beta")):
        for z in range(3):
            write_slice(
                tmp_path / "in" / name / f"{name}{z}.dcm",
                np.zeros((4, 4), np.int16),
                z=z,
                SeriesInstanceUID=f"1.2.{number + 5}",
                PatientID=f"PAT-{name}",
            )
    entries = enumerate_sources([str(tmp_path / "in")]).entries
    return build_stacks(facts for entry in entries for facts in scan(entry, ""))[0]


def run(
    stacks: list[SliceStack], tmp_path: Path, text: str, fields: tuple[str, ...] = ()
) -> tuple[dict[int, Annotation], list[str]]:
    file = tmp_path / "labels.csv"
    file.write_text(text, encoding="utf-8")
    table = read_table(file, fields)
    annotations = {index: Annotation() for index in range(len(stacks))}
    errors = apply(table, stacks, CaseNames(stacks, lambda: IDS[: len(stacks)]), annotations)
    return annotations, [told for _, told in table.faults] + [str(error) for _, error in errors]


@pytest.mark.parametrize("name", ["beta", "1.2.6", "PAT-beta", "b" * 16, "0123456789ab-" + "b" * 16])
def test_a_case_is_known_by_all_its_names(stacks: list[SliceStack], tmp_path: Path, name: str) -> None:
    annotations, errors = run(stacks, tmp_path, f"{HEADER}{name},1,1,0.5,0.25,0.125,0.75,1\n")
    assert not errors
    assert not annotations[0].findings
    assert annotations[1].findings[1].values == (1.0, 0.5, 0.25, 0.125, 0.75, 1.0)
    assert set(annotations[1].findings) == {1}


def test_a_path_names_a_slice(stacks: list[SliceStack], tmp_path: Path) -> None:
    annotations, errors = run(stacks, tmp_path, "path,label\nalpha/alpha2.dcm,3\nin/beta/beta0.dcm,1\n")
    assert not errors
    assert annotations[0].labels == {2: 3}
    assert annotations[1].labels == {0: 1}


@pytest.fixture
def bundled(write_slice: Callable[..., Path], tmp_path: Path) -> list[SliceStack]:
    """One patient's two series of two slices in `one/study.zip`, a third series in `two/study.zip`."""
    for number, (folder, name) in enumerate((("one", "thin"), ("one", "thick"), ("two", "thin"))):
        for z in range(2):
            file = tmp_path / "loose" / f"{z}.dcm"
            tags = {"SeriesInstanceUID": f"1.2.{number}", "SOPInstanceUID": f"1.2.{number}.{z}", "PatientID": "PAT"}
            write_slice(file, np.zeros((4, 4), np.int16), z=z, **tags)
            archive = tmp_path / "in" / folder / "study.zip"
            archive.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(archive, "a") as bundle:
                bundle.write(file, f"{name}/{z}.dcm")
    entries = enumerate_sources([str(tmp_path / "in")]).entries
    return build_stacks(facts for entry in entries for facts in scan(entry, ""))[0]


@pytest.mark.parametrize(
    ("row", "series", "slices"),
    [
        (",,1.2.1", "1.2.1", [0, 1]),
        ("PAT,,1.2.0", "1.2.0", [0, 1]),
        (",one/study.zip,1.2.1", "1.2.1", [0, 1]),
        (",in/one/study.zip,1.2.0", "1.2.0", [0, 1]),
        (",two/study.zip,", "1.2.2", [0, 1]),
        (",study.zip/thick,", "1.2.1", [0, 1]),
        (",one/study.zip/thin/1.dcm,", "1.2.0", [1]),
        (",thin/1.dcm,1.2.2", "1.2.2", [1]),
        ("study,,1.2.2", "1.2.2", [0, 1]),
    ],
)
def test_a_row_can_tell_series_of_one_zip_apart(
    bundled: list[SliceStack], tmp_path: Path, row: str, series: str, slices: list[int]
) -> None:
    annotations, errors = run(bundled, tmp_path, f"case,path,series,label\n{row},1\n")
    assert not errors
    for index, stack in enumerate(bundled):
        assert list(annotations[index].labels) == (slices if stack.first.series == series else [])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("PAT,,", "'PAT' means 3 cases: 1.2.1, 1.2.0, 1.2.2; name one in a column 'series'"),
        (
            ",one/study.zip,",
            "means 2 cases: 1.2.[01], 1.2.[01]; give more of the path, or name one in a column 'series'",
        ),
        (",thin/1.dcm,", "means 2 cases: 1.2.[02], 1.2.[02]; give more"),
        (",two/study.zip,1.2.1", "'two/study.zip' holds no series '1.2.1'; it has 1.2.2"),
        (",,1.2.9", "no series '1.2.9' in the sources; did you mean '1.2.[012]'"),
        ("PAT,,1.2.9", "'PAT' holds no series '1.2.9'; it has 1.2.1, 1.2.0, 1.2.2"),
    ],
)
def test_an_ambiguous_row_is_an_error_that_tells_what_it_could_mean(
    bundled: list[SliceStack], tmp_path: Path, row: str, reason: str
) -> None:
    annotations, errors = run(bundled, tmp_path, f"case,path,series,label\n{row},1\n")
    assert len(errors) == 1
    assert re.search(f"labels.csv, row 2: .*{reason}", errors[0]), errors[0]
    assert not any(annotation.labels for annotation in annotations.values())


def test_stacks_of_one_series_are_told_apart_by_their_ids(write_slice: Callable[..., Path], tmp_path: Path) -> None:
    for number, axes in enumerate(([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1])):
        for z in range(2):
            write_slice(
                tmp_path / "in" / f"{number}{z}.dcm",
                np.zeros((4, 4), np.int16),
                ImageOrientationPatient=axes,
                ImagePositionPatient=[0, z, z],
                SeriesInstanceUID="1.2.5",
            )
    entries = enumerate_sources([str(tmp_path / "in")]).entries
    stacks = build_stacks(facts for entry in entries for facts in scan(entry, ""))[0]
    _, errors = run(stacks, tmp_path, "series,label\n1.2.5,1\n")
    assert re.search(r"means 2 cases: a{16} \(.*00.dcm\), b{16} \(.*1..dcm\); name one by this id", errors[0]), errors
    annotations, errors = run(stacks, tmp_path, f"case,label\n{'b' * 16},1\n")
    assert not errors
    assert (annotations[0].labels, annotations[1].labels) == ({}, {0: 1, 1: 1})


def test_a_file_name_that_occurs_twice_in_a_case_is_no_slice(write_slice: Callable[..., Path], tmp_path: Path) -> None:
    for z in range(2):
        file = tmp_path / "in" / str(z) / "image.dcm"
        write_slice(file, np.zeros((4, 4), np.int16), z=z, SeriesInstanceUID="1.2.5", SOPInstanceUID=f"1.2.5.{z}")
    entries = enumerate_sources([str(tmp_path / "in")]).entries
    stacks = build_stacks(facts for entry in entries for facts in scan(entry, ""))[0]
    annotations, errors = run(stacks, tmp_path, "path,label\nimage.dcm,7\n0/image.dcm,3\n")
    assert len(errors) == 1
    assert "row 2: 'image.dcm' means" in errors[0]
    assert annotations[0].labels == {0: 3}


def test_the_largest_of_several_stands(stacks: list[SliceStack], tmp_path: Path) -> None:
    rows = "beta,1,1,0.5,0.5,0.1,0,0\nbeta,1,1,0.2,0.2,0.3,1,1\nbeta,1,1,0.9,0.9,0.2,0,0\n"
    annotations, errors = run(stacks, tmp_path, HEADER + rows)
    assert not errors
    assert annotations[1].findings[1].values[3] == 0.3


def test_without_a_slice_all_slices_are_meant(stacks: list[SliceStack], tmp_path: Path) -> None:
    text = "case,label,text,modal,patient,split\nalpha,tumour,one,MR,p1,val\nbeta,none,two,CT,p2,test\n"
    annotations, errors = run(stacks, tmp_path, text)
    assert not errors
    assert annotations[0].labels == {0: 1, 1: 1, 2: 1}  # classes by name: none 0, tumour 1
    assert annotations[1].texts == {0: "two", 1: "two", 2: "two"}
    assert (annotations[0].patient, annotations[0].split, annotations[1].modalities[2]) == ("p1", "val", "CT")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("gamma,1,1,0.5,0.5,0.1,0,0", "no case 'gamma'"),
        ("betta,1,1,0.5,0.5,0.1,0,0", "did you mean 'beta'"),
        ("in,1,1,0.5,0.5,0.1,0,0", "means 2 cases"),
        ("beta,3,1,0.5,0.5,0.1,0,0", "slice '3': expected 0 to 2"),
        ("beta,-1,1,0.5,0.5,0.1,0,0", "slice '-1'"),
        ("beta,1,1,1.5,0.5,0.1,0,0", r"'x' is 1.5; it must lie in \[0, 1\]"),
        ("beta,1,1,0.5,nan,0.1,0,0", "'y' is nan"),
        ("beta,1,1,0.5,,0.1,0,0", "'y' is missing"),
        ("beta,1,1,0.5,much,0.1,0,0", "not a number"),
        ("beta,1,1,0.5,0.5,0.1,0,0,extra, text", "10 cells, the header has 8; put quotes"),
        (",1,1,0.5,0.5,0.1,0,0", "names no case, path or series"),
    ],
)
def test_every_fault_is_told_with_its_row(stacks: list[SliceStack], tmp_path: Path, row: str, reason: str) -> None:
    annotations, errors = run(stacks, tmp_path, f"{HEADER}alpha,0,1,0.5,0.5,0.1,0,0\n{row}\n")
    assert len(errors) == 1
    with pytest.raises(AssertionError, match=f"labels.csv, row 3: .*{reason}"):
        raise AssertionError(errors[0])
    assert annotations[0].findings  # the good row stands


def test_columns_are_matched_without_case(stacks: list[SliceStack], tmp_path: Path) -> None:
    text = "Case,SLICE,Text,Modal,Label,Age\nalpha,1,one lung,MR,tumour,0.25\n"
    annotations, errors = run(stacks, tmp_path, text, ("age",))
    assert not errors
    assert annotations[0].texts == {1: "one lung"}
    assert annotations[0].modalities == {1: "MR"}
    assert annotations[0].labels == {1: 0}
    assert annotations[0].findings[1].values == (0.25,)
    columns = ",".join(name.title() for name in NODULE_FIELDS)
    annotations, _ = run(stacks, tmp_path, f"case,{columns}\nalpha,1,0.2,0.3,0.4,0.5,0.6\n")
    assert annotations[0].findings[0].values == (1.0, 0.2, 0.3, 0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("case,Text,text\nalpha,a,b\n", "columns 'Text' and 'text' mean the same; keep one"),
        ("case,modal,Modality\nalpha,a,b\n", "columns 'modal' and 'Modality' mean the same"),
        ("case;label\nalpha;1\n", "separated by semicolons; save it with commas"),
        ("case\tlabel\nalpha\t1\n", "separated by tabs"),
    ],
)
def test_a_header_that_can_mean_two_things_is_refused(
    stacks: list[SliceStack], tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(DataError, match=f"labels.csv: .*{reason}"):
        run(stacks, tmp_path, text)


@pytest.mark.parametrize(
    ("columns", "named", "hint"),
    [
        ("case,Lable", "column Lable is unknown and not used;", "Lable: did you mean 'label'?"),
        ("case,shoe size,label", "column shoe size is unknown and not used;", "--vector-fields"),
        ("case,file,path", "column file is unknown and not used;", "--vector-fields"),  # the path is read
        ("case,,A,b", "columns (no name), A are unknown and not used;", "--vector-fields"),
    ],
)
def test_columns_that_nothing_reads_are_named(tmp_path: Path, columns: str, named: str, hint: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(f"{columns}\n{','.join('0' for _ in columns.split(','))}\n")
    warning = unused_warning(read_table(file, ("B",) if "b" in columns.split(",") else ()))
    assert named in warning
    assert hint in warning
    file.write_text("case,series,slice,Label,text,modality,patient,split\na,,,,,,,\n")
    assert unused_warning(read_table(file)) == ""


def test_an_empty_label_is_none_and_shifts_no_other(stacks: list[SliceStack], tmp_path: Path) -> None:
    annotations, errors = run(stacks, tmp_path, "case,slice,label\nalpha,0,2\nalpha,1,\nbeta,,1\n")
    assert not errors
    assert annotations[0].labels == {0: 2}
    assert set(annotations[1].labels.values()) == {1}


def test_columns_are_checked(stacks: list[SliceStack], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'malignancy' and none 'texture'"):
        run(stacks, tmp_path, "case,has_nodule,x,y,size\nalpha,1,0,0,0\n")
    with pytest.raises(DataError, match="did you mean 'size'"):
        run(stacks, tmp_path, "case,size\nalpha,0\n", ("sizes",))
    with pytest.raises(DataError, match="needs a column 'case', 'path' or 'series'"):
        run(stacks, tmp_path, "name,size\nalpha,0\n")
    with pytest.raises(DataError, match="holds no rows"):
        run(stacks, tmp_path, HEADER)
    annotations, _ = run(stacks, tmp_path, "case,b,a\nalpha,0.25,0.5\n", ("a", "b"))
    assert annotations[0].findings[2].values == (0.5, 0.25)


def test_field_order_is_the_convention_whatever_the_columns_order(stacks: list[SliceStack], tmp_path: Path) -> None:
    columns = list(reversed(NODULE_FIELDS))
    annotations, _ = run(stacks, tmp_path, f"case,{','.join(columns)}\nalpha,0.6,0.5,0.4,0.3,0.2,1\n")
    assert annotations[0].findings[0].values == (1.0, 0.2, 0.3, 0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("columns", "first", "second", "name"),
    [
        ("case,label", "alpha,ill", "alpha,normal", "label"),
        ("case,slice,text", "alpha,1,a nodule", "alpha,1,two nodules", "text"),
        ("case,slice,modality", "alpha,,CT", "alpha,2,MR", "modality"),
        ("case,slice,split", "alpha,0,train", "alpha,1,test", "split"),
        ("case,slice,patient", "alpha,0,p1", "alpha,1,p2", "patient"),
        ("case,slice,synthetic", "alpha,0,generated", "alpha,1,altered", "synthetic"),
    ],
)
def test_rows_that_contradict_each_other_are_named(
    stacks: list[SliceStack], tmp_path: Path, columns: str, first: str, second: str, name: str
) -> None:
    annotations, errors = run(stacks, tmp_path, f"{columns}\n{first}\n{first}\n{second}\nbeta{first[5:]}\n")
    assert len(errors) == 1
    assert f"row 4: its {name} is not that of an earlier row for the same image" in errors[0]
    alone, _ = run(stacks, tmp_path, f"{columns}\n{first}\n")
    assert annotations[0] == alone[0]  # the row has left nothing behind


@pytest.mark.parametrize(
    "row",
    [
        ("path", "gamma/alpha"),  # a folder of that name, in another one
        ("path", "gamma/alpha/alpha0.png"),
        ("path", "1.2.7"),  # differs from a folder's name in its last number
        ("path", "study.new"),
        ("case", "1.2"),
        ("case", "study"),
    ],
)
def test_a_name_that_is_only_alike_names_no_case(
    write_slice: Callable[..., Path], tmp_path: Path, row: tuple[str, str]
) -> None:
    for name in ("in/alpha/alpha0.dcm", "in/1.2.6/0.dcm", "in/study.old/0.dcm"):
        write_slice(tmp_path / name, np.zeros((4, 4), np.int16), SeriesInstanceUID=f"1.9.{len(name)}", PatientID=name)
    stacks, _ = build_stacks(
        facts for entry in enumerate_sources([str(tmp_path / "in")]).entries for facts in scan(entry, "")
    )
    annotations, errors = run(stacks, tmp_path, f"{row[0]},label\n{row[1]},1\n")
    assert len(errors) == 1
    assert f"'{row[1]}' in the sources" in errors[0]
    assert not any(annotation.labels for annotation in annotations.values())


@pytest.mark.parametrize("path", ["in/1.2.6", "1.2.6", "./in/x/../1.2.6", "1.2.6.zip", "1.2.6/0.png", "1.2.6/0"])
def test_a_path_may_differ_in_its_ending_only(write_slice: Callable[..., Path], tmp_path: Path, path: str) -> None:
    for name in ("1.2.6", "1.2.7"):
        folder = tmp_path / "in" / name
        write_slice(folder / "0.dcm", np.zeros((4, 4), np.int16), SeriesInstanceUID=f"1.9.{name}", PatientID=name)
    entries = enumerate_sources([str(tmp_path / "in")]).entries
    stacks, _ = build_stacks(facts for entry in entries for facts in scan(entry, ""))
    annotations, errors = run(stacks, tmp_path, f"path,label\n{path},1\n")
    assert not errors
    assert [annotations[0].labels, annotations[1].labels] == [{0: 1}, {}]


@pytest.mark.parametrize(
    "pair",
    [("Normal", "normal"), ("1.0", "1"), ("\u00e9d\u00e8me", "e\u0301de\u0300me"), ("no tumour", "No  Tumour")],
)
def test_spellings_of_one_label_do_not_become_two_classes(
    stacks: list[SliceStack], tmp_path: Path, pair: tuple[str, str]
) -> None:
    with pytest.raises(DataError, match=r"labels.csv: the labels .* are one, spelled in two ways"):
        run(stacks, tmp_path, f"case,label\nalpha,{pair[0]}\nbeta,{pair[1]}\n")


@pytest.mark.parametrize("pair", [("-1", "1"), ("T1-2", "T12"), ("1.5", "15"), ("0.1", "0.01"), ("10.0", "1")])
def test_labels_that_are_alike_are_two_classes(stacks: list[SliceStack], tmp_path: Path, pair: tuple[str, str]) -> None:
    annotations, errors = run(stacks, tmp_path, f"case,label\nalpha,{pair[0]}\nbeta,{pair[1]}\n")
    assert not errors
    assert {*annotations[0].labels.values(), *annotations[1].labels.values()} == {0, 1}


@pytest.mark.parametrize("column", ["label", "text", "modality", "patient"])
def test_what_programs_write_for_nothing_is_no_name(stacks: list[SliceStack], tmp_path: Path, column: str) -> None:
    annotations, errors = run(stacks, tmp_path, f"case,{column}\nalpha,nan\nbeta,1\n")
    assert len(errors) == 1
    assert f"row 2: its {column} is 'nan'" in errors[0]
    assert annotations[0] == Annotation()


def test_a_path_tells_more_than_the_case_and_the_number_of_the_slice(stacks: list[SliceStack], tmp_path: Path) -> None:
    """As in `conditions.csv`, of which some files may have been deleted."""
    annotations, errors = run(
        stacks,
        tmp_path,
        "file,case,slice,size,label\nalpha/alpha1.dcm,alpha,2,0.9,1\nalpha/alpha2.dcm,alpha,,0.1,2\n"
        "alpha/alpha0.dcm,beta,0,0.5,1\nbeta/beta0.dcm,a name of old,0,0.5,1\n",
        ("size",),
    )
    assert annotations[0].labels == {1: 1, 2: 2}
    assert {place: found.values for place, found in annotations[0].findings.items()} == {1: (0.9,), 2: (0.1,)}
    assert annotations[1].labels == {0: 1}
    assert len(errors) == 1
    assert "row 4: 'alpha/alpha0.dcm' is not of case 'beta'" in errors[0]
