"""LIDC readings: contours outside the nodule, readers matched by overlap, their mean on each slice."""

from __future__ import annotations

from pathlib import Path

import pytest

from medgen.errors import DataError
from medgen.imaging.cases.choice import kept_slices
from medgen.imaging.labels.annotations import NODULE_FIELDS, Annotation, Finding
from medgen.imaging.labels.lidc import Reading, annotate, mean_finding, nodules, read_xml
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.series import SliceStack
from medgen.imaging.reading.slices import SliceFacts

RATED = "<characteristics><texture>{}</texture><malignancy>{}</malignancy></characteristics>"


def region(sop: str, left: int, top: int, right: int, bottom: int, inclusion: str = "TRUE") -> str:
    """A contour around the pixels left..right, top..bottom, running through the pixels just outside."""
    corners = ((left - 1, top), (right + 1, top), (left, top - 1), (right, bottom + 1))
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in corners)
    return f"<roi><imageSOP_UID>{sop}</imageSOP_UID><inclusion>{inclusion}</inclusion>{edges}</roi>"


def reading(tmp_path: Path, *sessions: str, tag: str = "LidcReadMessage", before: str = "") -> Reading | None:
    body = "".join(f"<readingSession>{session}</readingSession>" for session in sessions)
    header = "<ResponseHeader><SeriesInstanceUid>1.9</SeriesInstanceUid></ResponseHeader>"
    file = tmp_path / "r.xml"
    file.write_text(f'<?xml version="1.0"?>{before}<{tag} xmlns="http://www.nih.gov">{header}{body}</{tag}>')
    return read_xml(file)


def nodule(texture: int, malignancy: int, *regions: str) -> str:
    return f"<unblindedReadNodule>{RATED.format(texture, malignancy)}{''.join(regions)}</unblindedReadNodule>"


def test_the_mean_of_two_readers(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        nodule(5, 4, region("1.1", 10, 20, 19, 29), region("1.2", 12, 22, 15, 25)),
        nodule(3, 2, region("1.1", 12, 20, 23, 25)),
    )
    assert found
    assert found.series == "1.9"
    (group,) = nodules(found.outlines)
    # on 1.1: boxes [10,20)x[20,30) and [12,24)x[20,26): mean [11,22)x[20,28)
    values = mean_finding(group, "1.1", (100, 200)).values
    assert values == pytest.approx((1, 16.5 / 200, 24 / 100, 11 / 200, (3 - 1) / 4, (4 - 1) / 4))
    # on 1.2 only the first reader drew, but the ratings are those of both
    finding = mean_finding(group, "1.2", (100, 200))
    assert finding.values == pytest.approx((1, 14 / 200, 24 / 100, 4 / 200, 0.5, 0.75))
    assert finding.box == pytest.approx((4 / 200, 4 / 100))


def test_nodules_that_do_not_overlap_are_two_and_one_readers_are_not_joined(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        nodule(5, 5, region("1.1", 10, 10, 20, 20)) + nodule(1, 1, region("1.1", 40, 40, 50, 50)),
        nodule(5, 5, region("1.1", 18, 18, 30, 30)) + nodule(1, 1, region("1.2", 10, 10, 20, 20)),
    )
    assert found
    assert sorted(len(group) for group in nodules(found.outlines)) == [1, 1, 2]


def test_small_nodules_without_ratings_and_holes_are_passed_over(tmp_path: Path) -> None:
    small = f"<unblindedReadNodule>{region('1.1', 5, 5, 5, 5)}</unblindedReadNodule>"
    hole = nodule(5, 5, region("1.1", 10, 10, 20, 20), region("1.1", 2, 2, 40, 40, "FALSE"))
    found = reading(tmp_path, small + hole)
    assert found
    (outline,) = found.outlines
    assert outline.boxes == {"1.1": (10.0, 10.0, 21.0, 21.0)}


def test_other_files_and_damage(tmp_path: Path) -> None:
    assert reading(tmp_path, tag="IdriReadMessage") is None
    (tmp_path / "bad.xml").write_text("<LidcReadMessage>")
    with pytest.raises(DataError, match="not valid XML"):
        read_xml(tmp_path / "bad.xml")
    with pytest.raises(DataError, match="not a number"):
        reading(tmp_path, nodule(5, 5, region("1.1", 10, 10, 20, 20).replace("<xCoord>9<", "<xCoord>nine<")))


def test_entities_are_refused_before_they_expand(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    with pytest.raises(DataError, match="document type"):
        reading(tmp_path, before=bomb)
    with pytest.raises(DataError, match="document type"):
        reading(tmp_path, before='<!DOCTYPE x SYSTEM "file:///etc/passwd">')


def stack(*sops: str) -> SliceStack:
    facts = [SliceFacts(Entry(f"/{sop}"), 0, "dicom", 100, 100, False, "hu", series="1.9", sop=sop) for sop in sops]
    return SliceStack("1.9", facts)


def test_a_series_that_is_stored_in_two_ways_has_its_findings_in_both(tmp_path: Path) -> None:
    found = reading(tmp_path, nodule(5, 5, region("1.1", 10, 10, 19, 19)))
    assert found
    annotations, warnings = {0: Annotation(), 1: Annotation()}, list[str]()
    assert annotate(found, [stack("1.0", "1.1"), stack("1.1")], annotations, 1, warnings.append)
    assert annotations[0].findings == {1: annotations[1].findings[0]}
    assert not warnings


@pytest.mark.parametrize(("sops", "there", "told"), [(["7.0"], True, 1), ([], False, 0)])
def test_a_series_without_the_slices_of_its_nodules_is_told(
    tmp_path: Path, sops: list[str], there: bool, told: int
) -> None:
    """Programs that remove identities often give new SOPInstanceUIDs; all slices would count as healthy."""
    found = reading(tmp_path, nodule(5, 5, region("1.1", 10, 10, 19, 19)))
    assert found
    warnings: list[str] = []
    stacks = [stack(*sops)] if sops else []
    assert annotate(found, stacks, {0: Annotation()}, 1, warnings.append) is there
    assert len([line for line in warnings if "count as healthy" in line]) == told


def test_slices_with_marks_that_do_not_count_are_not_taken_for_healthy(tmp_path: Path) -> None:
    small = f"<unblindedReadNodule>{region('1.1', 5, 5, 5, 5)}</unblindedReadNodule>"
    both = nodule(5, 5, region("1.3", 10, 10, 19, 19))
    found = reading(
        tmp_path, small + both + nodule(5, 5, region("1.2", 60, 60, 69, 69), region("1.3", 60, 60, 69, 69)), both
    )
    assert found
    told, series = {0: Annotation()}, stack(*(f"1.{number}" for number in range(6)))
    annotate(found, [series], told, 2, pytest.fail)
    assert (set(told[0].findings), told[0].doubtful) == ({3}, {1, 2, 3})
    assert kept_slices(series, told[0], NODULE_FIELDS, 6) == (0, 3, 4, 5)


def test_a_vector_that_says_healthy_is_no_finding() -> None:
    """As tables with a row for each slice have it, which `export` writes too."""
    told = Annotation(findings={index: Finding((float(index == 2), 0, 0, 0, 0, 0)) for index in range(6)})
    series = stack(*(f"1.{number}" for number in range(6)))
    assert len(kept_slices(series, told, NODULE_FIELDS, 2)) == 3
    assert kept_slices(series, told, NODULE_FIELDS, 0) == (2,)
    assert kept_slices(series, told, ("size", "x", "y"), 0) == (0, 1, 2, 3, 4, 5)
