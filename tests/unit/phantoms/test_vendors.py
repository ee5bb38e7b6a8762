"""Whatever a maker's habits are, a reader of DICOM gets the same HU back."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pydicom
import pytest
from pydicom import uid

from medgen.phantoms.vendors import NAMING, NUMBERING, VENDORS, Habits, Placement, study_files

PLACE = Placement(origin=(-120.0, -110.5, -300.25), pixel=1.25, step=2.5, thickness=5.0)
CASES = [(vendor, syntax) for vendor in VENDORS for syntax in sorted(set(vendor.syntaxes))]


def slices(count: int = 4, size: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.uniform(-1000.0, 1500.0, (size, size)).astype(np.float32) for _ in range(count)]


def written(habits: Habits, images: list[np.ndarray]) -> list[tuple[str, pydicom.Dataset]]:
    stacks = [(np.stack(images), PLACE)]
    files = study_files(np.random.default_rng(1), habits, "PHANTOM-0007", ("test", 7), ("frame", 7), stacks)
    return [(name, pydicom.dcmread(io.BytesIO(content))) for name, content in files]


@pytest.mark.parametrize(("vendor", "syntax"), CASES, ids=lambda value: getattr(value, "model", None) or str(value))
def test_pixels_come_back_as_hu(vendor: object, syntax: str) -> None:
    habits = Habits(vendor, syntax, "shuffled", "bare", terse=True, scout=False)  # type: ignore[arg-type]
    images = slices()
    files = sorted((file for _, file in written(habits, images)), key=lambda file: file.ImagePositionPatient[2])
    for index, (file, image) in enumerate(zip(files, images, strict=True)):
        assert file.file_meta.TransferSyntaxUID == syntax
        hu = file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)
        seen = np.ones(image.shape, bool)
        if "PixelPaddingValue" in file:
            seen = file.pixel_array != file.PixelPaddingValue
            assert not seen[0, 0]
            assert seen[20, 20]
            assert ("SS" if file.PixelRepresentation else "US") == file["PixelPaddingValue"].VR
        assert np.abs(hu - image)[seen].max() <= 0.5 * float(file.RescaleSlope) + 1e-3
        assert seen.mean() > 0.7
        assert [float(value) for value in file.ImagePositionPatient] == [-120.0, -110.5, -300.25 + 2.5 * index]
        assert file.SOPClassUID == uid.CTImageStorage


@pytest.mark.parametrize("numbering", NUMBERING)
def test_instance_numbers_are_as_odd_as_in_life(numbering: str) -> None:
    habits = Habits(VENDORS[2], uid.ExplicitVRLittleEndian, numbering, "uid", terse=False, scout=False)
    files = sorted((file for _, file in written(habits, slices(9))), key=lambda file: file.ImagePositionPatient[2])
    numbers = [file.InstanceNumber for file in files]
    if numbering == "absent":
        assert numbers == [None] * 9
    else:
        assert sorted(numbers) == list(range(1, 10))
        assert (numbers == sorted(numbers)) == (numbering == "ascending")
        assert (numbers == sorted(numbers)[::-1]) == (numbering == "descending")


@pytest.mark.parametrize("naming", NAMING)
def test_names_are_unique_and_files_lie_in_no_order(naming: str) -> None:
    habits = Habits(VENDORS[0], uid.ExplicitVRLittleEndian, "ascending", naming, terse=False, scout=True)
    files = written(habits, slices(12))
    names = [name for name, _ in files]
    assert len(set(names)) == 13
    heights = [file.ImagePositionPatient[2] for _, file in files if "LOCALIZER" not in file.ImageType]
    assert heights != sorted(heights)


@pytest.mark.parametrize("naming", NAMING)
def test_two_series_of_a_study_share_patient_and_frame_of_reference(naming: str) -> None:
    habits = Habits(VENDORS[0], uid.ExplicitVRLittleEndian, "ascending", naming, terse=False, scout=True)
    thin, thick = np.stack(slices(6)), np.stack(slices(3))
    stacks = [(thin, PLACE), (thick, Placement((-120.0, -110.5, -299.0), 1.25, 5.0, 5.0))]
    files = study_files(np.random.default_rng(1), habits, "PHANTOM-0007", ("test", 7), ("frame", 7), stacks)
    assert len({name for name, _ in files}) == 10
    made = [pydicom.dcmread(io.BytesIO(content)) for _, content in files]
    assert len({file.SOPInstanceUID for file in made}) == 10
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert len({getattr(file, name) for file in made}) == 1
    axial = Counter((file.SeriesNumber, file.SeriesInstanceUID) for file in made if "AXIAL" in file.ImageType)
    assert sorted((number, count) for (number, _), count in axial.items()) == [(2, 6), (3, 3)]


def test_terse_files_leave_out_what_they_may_and_keep_what_they_must() -> None:
    terse, wordy = (
        written(
            Habits(VENDORS[0], uid.ExplicitVRLittleEndian, "ascending", "uid", terse=short, scout=False), slices(1)
        )[0][1]
        for short in (True, False)
    )
    for file in (terse, wordy):
        for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PixelSpacing"):
            assert name in file
        assert file.PatientID == "PHANTOM-0007"
    assert "SliceLocation" in wordy
    assert "SliceLocation" not in terse


def test_habits_vary() -> None:
    drawn = [Habits.draw(np.random.default_rng(seed), 0.5) for seed in range(80)]
    assert {habit.vendor for habit in drawn} == set(VENDORS)
    assert {habit.numbering for habit in drawn} == set(NUMBERING)
    assert {habit.naming for habit in drawn} == set(NAMING)
    assert len({habit.syntax for habit in drawn}) >= 5
    assert {habit.scout for habit in drawn} == {True, False}
