"""Cases pair by id, patient, path, or as a file says; what cannot be paired is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from medgen.artifacts.stored import CaseRow
from medgen.errors import DataError, UsageError
from medgen.evaluation.pairing import MEASURED, REFERENCE, THICK, Pairing, Side, pairing_of
from medgen.imaging.cases.identity import case_id, patient_in
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.series import SliceStack
from medgen.imaging.reading.slices import SliceFacts


def row(case: str, frame: str = "", spacing: float = 1.0) -> CaseRow:
    return CaseRow(case, "test", 0, 4, (spacing, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0,) * 9, frame=frame)


def stack(*within: str, patient: str = "", series: str = "") -> SliceStack:
    """Slices of these files."""
    facts = [
        SliceFacts(Entry(f"/data/{name}", within=name), 0, "dicom", 4, 4, False, "hu", patient=patient, series=series)
        for name in within
    ]
    return SliceStack(series or within[0], facts)


OUTPUT = Side(MEASURED, [row("n1"), row("n2")])
COARSE = Side(THICK, [row("n1"), row("n2")], [("n1", stack("anna.nii.gz")), ("n2", stack("berta.nii.gz"))])
FINE = Side(
    REFERENCE,
    [row("d1"), row("d2")],
    [
        ("d1", stack("berta/ct/0.dcm", "berta/ct/1.dcm", patient="berta", series="1.2")),
        ("d2", stack("anna.zip/0.dcm", "anna.zip/1.dcm", patient="anna", series="1.3")),
    ],
)
SIDES = [OUTPUT, COARSE, FINE]


def found(pairing: Pairing, case: str, part: str = MEASURED, other: Side = FINE) -> list[str]:
    return [one.id for one in pairing.partners(row(case), part, other.cases, other.part)]


@pytest.mark.parametrize("by", ["patient", "path"])
def test_names_of_files_pair_and_reach_the_set_by_its_ids(by: str) -> None:
    pairing = pairing_of(by, SIDES)
    assert found(pairing, "n1", THICK) == ["d2"]
    assert (found(pairing, "n1"), found(pairing, "n2"), found(pairing, "n3")) == (["d2"], ["d1"], [])
    assert found(pairing, "n1", other=COARSE) == ["n1"]


def test_without_names_the_id_counts_before_the_frame() -> None:
    pairing = pairing_of("", [])
    others = [row("a", "f"), row("b", "f"), row("c", "g")]
    for case, frame, expected in (("a", "f", ["a"]), ("x", "f", ["a", "b"]), ("x", "", []), ("c", "f", ["c"])):
        assert [one.id for one in pairing.partners(row(case, frame), MEASURED, others, REFERENCE)] == expected
    by_case = pairing_of("case", [Side(MEASURED, [row("x", "f")]), Side(REFERENCE, others)])
    assert not by_case.partners(row("x", "f"), MEASURED, others, REFERENCE)


def test_the_outermost_folder_of_one_case_alone_is_its_path() -> None:
    cases = [row(case) for case in "abcd"]
    files = [
        ("a", stack("p/one/0.dcm", "p/one/1.dcm")),
        ("b", stack("p/two/0.dcm", "p/two/1.dcm")),
        ("c", stack("q/deep/0.dcm", "q/deep/1.dcm")),
        ("d", stack("r/image.nii.gz")),
    ]
    theirs = [("A", stack("p/one.nii")), ("B", stack("p/two.nii")), ("C", stack("q.nii")), ("D", stack("r/image.png"))]
    pairing = pairing_of("path", [Side(MEASURED, cases, files), Side(REFERENCE, [row(c) for c in "ABCD"], theirs)])
    other = Side(REFERENCE, [row(c) for c in "ABCD"])
    assert [found(pairing, case, other=other) for case in "abcd"] == [["A"], ["B"], ["C"], ["D"]]


def test_ids_made_with_a_secret_tell_the_patient_of_sets_too() -> None:
    secret = b"0" * 32
    ours = case_id(4, b"thick", "anna", secret)
    theirs = [case_id(40, pixels, patient, secret) for pixels, patient in ((b"a", "anna"), (b"b", "berta"))]
    theirs.append(f"{case_id(40, b'c', 'anna', secret)}.2")
    pairing = pairing_of("patient", [Side(MEASURED, [row(ours)]), Side(REFERENCE, list(map(row, theirs)))])
    partners = pairing.partners(row(ours), MEASURED, list(map(row, theirs)), REFERENCE)
    assert [one.id for one in partners] == [theirs[0], theirs[2]]
    assert patient_in(case_id(4, b"thick")) == ""


@pytest.mark.parametrize(
    "text",
    [
        "thick,reference\nanna.nii.gz,anna\nberta,berta/ct\n",
        "Thick,REFERENCE\nn1,d2\nn2,1.2\n",
        "set,thick,reference\nn1,n1,anna.zip\nn2,n2,d1\n",
        "reference,set\nd2,n1\nd1,n2\n",
    ],
)
def test_a_file_names_pairs_in_any_way(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    sides = SIDES if "hick" in text else [OUTPUT, FINE]
    pairing = pairing_of(str(tmp_path / "pairs.csv"), sides)
    assert (found(pairing, "n1"), found(pairing, "n2")) == (["d2"], ["d1"])


def test_one_truth_may_serve_two_cases(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("set,reference\nn1,d1\nn2,d1\n")
    pairing = pairing_of(str(tmp_path / "pairs.csv"), [OUTPUT, FINE])
    assert (found(pairing, "n1"), found(pairing, "n2")) == (["d1"], ["d1"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("set,reference\nn1,d3\n", "pairs.csv, row 2: no file 'd3'"),
        ("set,reference\nnn1,d1\n", "row 2: no case 'nn1' in the measured; did you mean 'n1'"),
        ("set,truth\nn1,d1\n", "has the columns set, truth; expected two of set, reference, thick"),
        ("set\nn1\n", "has the columns set; expected two"),
        ("set,reference\nn1\n", "row 2: 1 cells"),
    ],
)
def test_what_is_wrong_with_a_file_of_pairs_is_said(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        pairing_of(str(tmp_path / "pairs.csv"), [OUTPUT, FINE])


def test_a_way_that_is_unknown_or_asks_too_much_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'patient'"):
        pairing_of("patients", SIDES)
    with pytest.raises(UsageError, match="nothing is known of the cases of the measured: a set holds no names"):
        pairing_of("patient", [OUTPUT, FINE])


def test_folders_that_differ_in_their_last_number_do_not_pair() -> None:
    sides = [
        Side(part, [row(f"{part}7"), row(f"{part}8")], [(f"{part}{n}", stack(f"p.{n}/0", f"p.{n}/1")) for n in (7, 8)])
        for part in (MEASURED, REFERENCE)
    ]
    assert found(pairing_of("path", sides), f"{MEASURED}7", other=sides[1]) == [f"{REFERENCE}7"]
