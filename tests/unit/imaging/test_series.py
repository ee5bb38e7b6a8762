"""Stacks: separated by series and orientation, ordered by position, checked for gaps, tilt and doubles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medgen.imaging.reading.archive import enumerate_sources
from medgen.imaging.reading.formats import scan
from medgen.imaging.reading.series import SliceStack, build_stacks

WriteSlice = Callable[..., Path]


def stacks_in(folder: Path) -> list[SliceStack]:
    entries = enumerate_sources([str(folder)]).entries
    return build_stacks(facts for entry in entries for facts in scan(entry, ""))[0]


def blank(size: tuple[int, int] = (4, 6)) -> np.ndarray:
    return np.zeros(size, np.int16)


def heights(stack: SliceStack) -> list[float]:
    return [facts.position[2] if facts.position else math.nan for facts in stack.slices]


def write_all(write_slice: WriteSlice, folder: Path, places: Iterable[float], **tags: object) -> None:
    for number, z in enumerate(places):
        write_slice(folder / f"s{number}.dcm", blank(), z=z, **tags)


def test_order_is_by_position_not_by_name_or_instance_number(write_slice: WriteSlice, tmp_path: Path) -> None:
    for name, z, number in (("c", 5.0, 1), ("a", 10.0, 2), ("d", 0.0, 3), ("b", 7.5, 9), ("e", 2.5, 4)):
        write_slice(tmp_path / name, blank(), z=z, InstanceNumber=number)
    (stack,) = stacks_in(tmp_path)
    assert heights(stack) == [0.0, 2.5, 5.0, 7.5, 10.0]
    assert stack.spacing == (2.5, 0.5, 0.5)
    assert stack.origin == (-10.0, -20.0, 0.0)
    assert stack.direction == (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
    assert not stack.flaws


def test_order_follows_the_normal_where_rows_run_backwards(write_slice: WriteSlice, tmp_path: Path) -> None:
    write_all(write_slice, tmp_path, (0, 1, 2), ImageOrientationPatient=[1, 0, 0, 0, -1, 0])
    (stack,) = stacks_in(tmp_path)
    assert heights(stack) == [2.0, 1.0, 0.0]  # the normal points to the feet
    assert stack.direction[:3] == (0.0, 0.0, -1.0)


def test_oblique_stacks_measure_along_their_normal(write_slice: WriteSlice, tmp_path: Path) -> None:
    angle = math.radians(30)
    normal = np.array([0, -math.sin(angle), math.cos(angle)])
    for index in (2, 0, 1):
        position = (normal * 3.0 * index).tolist()
        axes = [1, 0, 0, 0, math.cos(angle), math.sin(angle)]
        write_slice(tmp_path / f"{index}", blank(), ImagePositionPatient=position, ImageOrientationPatient=axes)
    (stack,) = stacks_in(tmp_path)
    assert stack.spacing[0] == pytest.approx(3.0)
    assert np.allclose(stack.direction[:3], normal)
    assert not stack.flaws


def test_series_orientations_and_sizes_are_separated(write_slice: WriteSlice, tmp_path: Path) -> None:
    write_all(write_slice, tmp_path / "one", (0, 1, 2))
    write_all(write_slice, tmp_path / "two", (0, 1), SeriesInstanceUID="1.2.3.9")
    write_slice(tmp_path / "scout.dcm", blank(), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    write_slice(tmp_path / "large.dcm", blank((8, 8)), z=3)
    stacks = stacks_in(tmp_path)
    assert sorted(len(stack.slices) for stack in stacks) == [1, 1, 2, 3]
    assert len({stack.key for stack in stacks}) == 4


def test_no_stack_holds_slices_of_two_patients(write_slice: WriteSlice, tmp_path: Path) -> None:
    """Who takes names out of files may give all series one UID."""
    for number, z in enumerate(range(6)):
        write_slice(tmp_path / f"{number}", blank(), z=z, PatientID="AB"[number % 2])
    assert [(stack.patient, len(stack.slices)) for stack in stacks_in(tmp_path)] == [("A", 3), ("B", 3)]


def test_spaces_around_an_id_make_no_other_patient(write_slice: WriteSlice, tmp_path: Path) -> None:
    """They mean nothing in DICOM, and must not put one patient into two splits."""
    for number, patient in enumerate(("A", " A", " A ")):
        write_slice(tmp_path / f"{number}", blank(), PatientID=patient, SeriesInstanceUID=f"1.2.{number}")
    assert [stack.patient for stack in stacks_in(tmp_path)] == ["A"] * 3


def test_slices_with_a_copied_uid_are_a_stack(write_slice: WriteSlice, tmp_path: Path) -> None:
    write_all(write_slice, tmp_path, (0, 1, 2), SOPInstanceUID="1.2.3.4")
    (stack,) = stacks_in(tmp_path)
    assert heights(stack) == [0.0, 1.0, 2.0]
    assert not stack.flaws


def test_nearly_equal_orientations_stay_together(write_slice: WriteSlice, tmp_path: Path) -> None:
    for index, small in enumerate((0.00499, 0.00501, 0.005)):  # either side of what rounding would cut apart
        write_slice(tmp_path / f"{index}", blank(), z=index, ImageOrientationPatient=[1, small, 0, -small, 1, 0])
    assert len(stacks_in(tmp_path)) == 1


def test_echoes_on_the_same_positions_are_separated(write_slice: WriteSlice, tmp_path: Path) -> None:
    for echo in (1, 2):
        for z in range(3):
            write_slice(tmp_path / f"e{echo}z{z}", blank(), z=z, EchoTime=10 * echo, InstanceNumber=z)
    stacks = stacks_in(tmp_path)
    assert [len(stack.slices) for stack in stacks] == [3, 3]
    assert all(len({facts.phase for facts in stack.slices}) == 1 and not stack.flaws for stack in stacks)


def test_one_position_twice_does_not_take_a_stack_apart(write_slice: WriteSlice, tmp_path: Path) -> None:
    """Each slice has a time of its own, so that the time tells all apart, and not two phases."""
    for number, z in enumerate((0, 1, 2, 3, 3, 4, 5)):
        write_slice(tmp_path / f"{number}", blank(), z=z, ContentTime=f"10{number:02}00")
    (stack,) = stacks_in(tmp_path)
    assert len(stack.slices) == 7
    assert "share a position" in stack.flaws["shared positions"]


def test_stacks_that_only_several_attributes_tell_apart(write_slice: WriteSlice, tmp_path: Path) -> None:
    """Two echoes at each of two times, and each slice measured at a moment of its own."""
    for number, (echo, time, z) in enumerate(itertools.product((1, 2), (1, 2), range(3))):
        tags = {"EchoTime": 10 * echo, "AcquisitionNumber": time, "ContentTime": f"10{number:02}00"}
        write_slice(tmp_path / f"{number}", blank(), z=z, **tags)
    stacks = stacks_in(tmp_path)
    assert [len(stack.slices) for stack in stacks] == [3] * 4
    assert not any(stack.flaws for stack in stacks)


def test_acquisitions_that_overlap_one_after_the_other(write_slice: WriteSlice, tmp_path: Path) -> None:
    for number, first in enumerate((0, 4, 8)):
        for z in range(first, first + 5):
            write_slice(tmp_path / f"a{number}z{z}", blank(), z=z, AcquisitionNumber=number)
    assert [len(stack.slices) for stack in stacks_in(tmp_path)] == [5, 5, 5]


def made(**values: object) -> Dataset:
    """A dataset of these attributes; a nested one becomes a sequence of one item."""
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, Sequence([value]) if isinstance(value, Dataset) else value)
    return dataset


@pytest.mark.parametrize(
    "frame",
    [
        lambda phase: {"CardiacSynchronizationSequence": made(NominalCardiacTriggerDelayTime=40.0 * phase)},
        lambda phase: {"MRImageFrameTypeSequence": made(FrameType=["ORIGINAL", "PRIMARY", "PHASE_MAP", "MP"[phase]])},
        lambda phase: {
            "MRDiffusionSequence": made(
                DiffusionBValue=1000,
                DiffusionGradientDirectionSequence=made(DiffusionGradientOrientation=[phase, 1 - phase, 0]),
            )
        },
        lambda phase: {"FrameContentSequence": made(FrameAcquisitionNumber=phase + 1)},
    ],
)
def test_frames_at_the_same_positions_are_told_apart(
    write_slice: WriteSlice, tmp_path: Path, frame: Callable[[int], dict[str, Dataset]]
) -> None:
    path = write_slice(tmp_path / "1", np.zeros((24, 6), np.int16), Rows=4, NumberOfFrames=6, ImagePositionPatient=None)
    dataset = pydicom.dcmread(path)
    places = ((phase, z) for z in range(3) for phase in (0, 1))
    dataset.PerFrameFunctionalGroupsSequence = [
        made(PlanePositionSequence=made(ImagePositionPatient=[0, 0, z]), **frame(phase)) for phase, z in places
    ]
    dataset.save_as(path, overwrite=True)
    stacks = stacks_in(tmp_path)
    assert [[item.frame for item in stack.slices] for stack in stacks] == [[0, 2, 4], [1, 3, 5]]


def test_gaps_are_named(write_slice: WriteSlice, tmp_path: Path) -> None:
    write_all(write_slice, tmp_path, (0, 2.5, 5, 10, 12.5))
    (stack,) = stacks_in(tmp_path)
    assert stack.spacing[0] == 2.5
    (flaw,) = stack.flaws.values()
    assert "5 mm between slices 2 and 3" in flaw
    assert "usually 2.5 mm" in flaw


def test_rounding_in_the_header_is_no_gap(write_slice: WriteSlice, tmp_path: Path) -> None:
    write_all(write_slice, tmp_path, (0, 1.25, 2.49, 3.76, 5.0))
    assert not stacks_in(tmp_path)[0].flaws


@pytest.mark.parametrize("degrees", [-15.0, 8.0])
def test_gantry_tilt_is_measured(write_slice: WriteSlice, tmp_path: Path, degrees: float) -> None:
    angle = math.radians(degrees)
    for z in range(6):  # the table moves along z, the slices are tilted about x
        axes = [1, 0, 0, 0, math.cos(angle), math.sin(angle)]
        write_slice(tmp_path / f"{z}", blank(), z=2.5 * z, ImageOrientationPatient=axes)
    (stack,) = stacks_in(tmp_path)
    assert any(f"tilt of {abs(degrees):.1f} degrees" in flaw for flaw in stack.flaws.values())


def test_copies_are_left_aside_and_other_files_of_one_instance_kept_apart(
    write_slice: WriteSlice, tmp_path: Path
) -> None:
    write_all(write_slice, tmp_path, (0, 1, 2))
    content = (tmp_path / "s1.dcm").read_bytes()
    (tmp_path / "t.dcm").write_bytes(content)
    (tmp_path / "u.dcm").write_bytes(content[:-4])
    entries = enumerate_sources([str(tmp_path)]).entries
    stacks, copies = build_stacks(facts for entry in entries for facts in scan(entry, ""))
    assert copies == [str(tmp_path / "t.dcm")]
    assert [[facts.entry.within.split("/")[1] for facts in stack.slices] for stack in stacks] == [
        ["s0.dcm", "s1.dcm", "s2.dcm"],
        ["u.dcm"],
    ]
    assert len({stack.key for stack in stacks}) == 2
    assert not stacks[0].flaws


def test_different_slices_on_one_position_are_a_flaw(write_slice: WriteSlice, tmp_path: Path) -> None:
    write_all(write_slice, tmp_path, (0, 1, 1, 2))
    (stack,) = stacks_in(tmp_path)
    assert len(stack.slices) == 4
    assert "share a position" in stack.flaws["shared positions"]


def test_images_without_position_are_cases_of_their_own(write_slice: WriteSlice, tmp_path: Path) -> None:
    for index in range(3):
        write_slice(
            tmp_path / f"{index}", blank(), ImagePositionPatient=None, ImageOrientationPatient=None, Modality="CR"
        )
    stacks = stacks_in(tmp_path)
    assert [len(stack.slices) for stack in stacks] == [1, 1, 1]
    assert len({stack.key for stack in stacks}) == 3


def test_one_slice_takes_its_thickness(write_slice: WriteSlice, tmp_path: Path) -> None:
    write_slice(tmp_path / "a", blank())
    assert stacks_in(tmp_path)[0].spacing == (2.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("told", "spacing"), [((5.0, None), 2.5), ((5.0, 2.0), 2.5), ((None, 2.0), 2.5), ((5.0, 4.0), 2.5)]
)
def test_thickness_is_not_the_distance(
    write_slice: WriteSlice, tmp_path: Path, told: tuple[float | None, float | None], spacing: float
) -> None:
    tags = {"SliceThickness": told[0], "SpacingBetweenSlices": told[1]}
    write_all(write_slice, tmp_path, (0, 2.5, 5.0), **tags)
    (stack,) = stacks_in(tmp_path)
    assert stack.thickness == (told[0] or 0.0)
    assert stack.spacing[0] == spacing  # positions count, not what the header says


def test_slices_that_disagree_tell_no_thickness(write_slice: WriteSlice, tmp_path: Path) -> None:
    for z, thickness in enumerate((1.0, 1.0, 2.0)):
        write_slice(tmp_path / f"{z}", blank(), z=z, SliceThickness=thickness)
    assert stacks_in(tmp_path)[0].thickness == 0.0
