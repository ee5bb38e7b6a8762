"""What is exported is read back by SimpleITK and Pillow: same values, same places, no patient."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.pixels import apply_rescale, apply_windowing

from medgen.artifacts.provenance import Provenance, derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.errors import DataError
from medgen.imaging.reading import formats
from medgen.imaging.reading.archive import enumerate_sources
from medgen.imaging.reading.series import build_stacks
from medgen.imaging.writing.dicom_parts import decimal, derived_uid
from medgen.imaging.writing.exporting import LONGEST_NAME, FileNames, export_cases
from medgen.imaging.writing.options import ExportOptions

STRAIGHT = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)


def rotated(seed: int = 0) -> tuple[float, ...]:
    """Unit vectors of z, y and x axis of an oblique, right-handed stack."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    across, down = q[:, 0], q[:, 1]
    return (*np.cross(across, down).tolist(), *down.tolist(), *across.tolist())


def header_of(
    intensity: Intensity | None = None, *, command: str = "generate", fields: tuple[str, ...] = ()
) -> SetHeader:
    return SetHeader("image", derive(command, {}, seed=0), intensity or Intensity(), vector_fields=fields)


def ct_case(name: str = "case", *, direction: tuple[float, ...] = STRAIGHT, seed: int = 1, **arrays: Any) -> Case:
    rng = np.random.default_rng(seed)
    image = rng.integers(-1024, 3000, (5, 1, 12, 9)).astype(np.int16)
    return Case(
        name,
        {"image": image, **arrays},
        spacing=(2.5, 0.7, 0.65),
        origin=(-101.25, 33.125, 907.75),
        direction=direction,
    )


def export(folder: Path, to: str, *cases: Case, header: SetHeader | None = None, **options: Any) -> Path:
    folder.mkdir()
    export_cases(header or header_of(), cases, folder, ExportOptions(to=to, **options))  # type: ignore[arg-type]
    return folder


def check_geometry(image: SimpleITK.Image, case: Case) -> None:
    """SimpleITK's (x, y, z) geometry is that of the case's (z, y, x)."""
    np.testing.assert_allclose(image.GetSpacing(), case.spacing[::-1], rtol=1e-5)
    np.testing.assert_allclose(image.GetOrigin(), case.origin, atol=1e-3)
    axes = np.asarray(case.direction).reshape(3, 3)[::-1]  # rows: x, y, z axis
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)).T, axes, atol=1e-5)


@pytest.mark.parametrize("direction", [STRAIGHT, rotated(0), rotated(1)], ids=["straight", "oblique", "other"])
def test_simpleitk_reads_the_dicom_back(tmp_path: Path, direction: tuple[float, ...]) -> None:
    case = ct_case(direction=direction)
    folder = export(tmp_path / "out", "dicom", case) / "case"
    (series,) = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    image = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), case["image"][:, 0])
    check_geometry(image, case)


@pytest.mark.parametrize("direction", [STRAIGHT, rotated(0), rotated(1)], ids=["straight", "oblique", "other"])
@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.5, -1024.0)])
def test_simpleitk_and_nibabel_read_the_nifti_back(
    tmp_path: Path, direction: tuple[float, ...], scale: tuple[float, float]
) -> None:
    mask = np.random.default_rng(0).integers(0, 2, (5, 1, 12, 9)).astype(np.uint8)
    case = ct_case(direction=direction, mask=mask)
    header = header_of(Intensity(scale=scale[0], offset=scale[1]))
    folder = export(tmp_path / "out", "nifti", case, header=header)
    image = SimpleITK.ReadImage(str(folder / "case.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), case["image"][:, 0] * scale[0] + scale[1])
    check_geometry(image, case)
    stored: Any = nibabel.load(folder / "case.nii.gz")  # type: ignore[attr-defined]
    assert stored.get_data_dtype() == np.int16
    np.testing.assert_array_equal(stored.dataobj.get_unscaled().T, case["image"][:, 0])
    outline = SimpleITK.ReadImage(str(folder / "case_mask.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(outline), mask[:, 0])
    check_geometry(outline, case)


@pytest.mark.parametrize("direction", [STRAIGHT, rotated(0)], ids=["straight", "oblique"])
def test_colour_in_nifti_is_one_image_of_colours(tmp_path: Path, direction: tuple[float, ...]) -> None:
    """Along the fourth axis, readers took it for three times of one grey volume."""
    image = np.random.default_rng(0).integers(0, 256, (4, 3, 12, 9)).astype(np.uint8)
    case = dataclasses.replace(ct_case(direction=direction), arrays={"image": image})
    folder = export(
        tmp_path / "out", "nifti", case, header=header_of(Intensity(unit="grey value", window=(0.0, 255.0)))
    )
    seen = SimpleITK.ReadImage(str(folder / "case.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(seen), image.transpose(0, 2, 3, 1))
    check_geometry(seen, case)
    (entry,) = enumerate_sources([str(folder / "case.nii.gz")]).entries
    (stack,), _ = build_stacks(formats.scan(entry, ""))
    assert (stack.first.colour, stack.first.kind, len(stack.slices)) == (True, "byte", 4)
    found = formats.read(entry, "nifti", [item.frame for item in stack.slices], hu=False)
    planes = np.asarray(found).transpose(0, 3, 1, 2)
    assert sorted(map(float, planes[:, 0].ravel())) == sorted(map(float, image[:, 0].ravel()))
    if direction == STRAIGHT:
        np.testing.assert_array_equal(planes, image)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
@pytest.mark.parametrize("intensity", [Intensity(), Intensity(scale=0.25, offset=-300.0)])
def test_dicom_keeps_integers_exactly(tmp_path: Path, dtype: type[np.integer[Any]], intensity: Intensity) -> None:
    low, high = (0, 255) if dtype == np.uint8 else (0, 65535) if dtype == np.uint16 else (-32768, 32767)
    image = np.array([[low, high, 1, 100]], dtype).reshape(1, 1, 2, 2)
    folder = export(tmp_path / "out", "dicom", Case("c", {"image": image}), header=header_of(intensity))
    file = pydicom.dcmread(folder / "c/0000.dcm")
    physical = file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)
    np.testing.assert_array_equal(physical, image[0, 0].astype(np.float64) * intensity.scale + intensity.offset)


def test_dicom_spreads_other_numbers_over_sixteen_bits(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(0, 100, (2, 1, 8, 8)).astype(np.float32)
    folder = export(tmp_path / "out", "dicom", Case("c", {"image": image}))
    file = pydicom.dcmread(folder / "c/0001.dcm")
    physical = file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)
    assert np.abs(physical - image[1, 0]).max() <= 0.51 * np.ptp(image) / 65535 + 1e-4
    with pytest.raises(DataError, match="case c: has values that are not finite"):
        export(tmp_path / "bad", "dicom", Case("c", {"image": np.full((1, 1, 2, 2), np.nan, np.float32)}))


@pytest.mark.parametrize("intensity", [Intensity(1 / 8192, 0.0, "relative", (0.0, 1.0)), Intensity()])
def test_viewers_show_the_window_of_dicom(tmp_path: Path, intensity: Intensity) -> None:
    stored = intensity.stored(np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4), np.int16)
    folder = export(tmp_path / "out", "dicom", Case("c", {"image": stored}), header=header_of(intensity))
    file = pydicom.dcmread(folder / "c/0000.dcm")
    shown = apply_windowing(apply_rescale(file.pixel_array, file), file).ravel()
    grey = (shown - shown[0]) / (shown[-1] - shown[0])
    np.testing.assert_allclose(grey, np.linspace(0, 1, 16), atol=1e-3)


@pytest.mark.parametrize("flaws", ["", "no positions"])
@pytest.mark.parametrize("modality", ["CT", "MR", "XR"])
def test_dicom_has_all_that_the_standard_demands(tmp_path: Path, modality: str, flaws: str) -> None:
    """By the tables of highdicom, and what its modules demand under conditions that hold here."""
    standard = pytest.importorskip("highdicom._standard_utils")
    modules, attributes = standard.get_iod_module_map(), standard.get_module_attribute_map()
    mask = np.ones((5, 1, 12, 9), np.uint8)
    case = dataclasses.replace(ct_case(mask=mask), modality=(modality,) * 5, flaws=flaws)
    folder = export(tmp_path / "out", "dicom", case, header=header_of(Intensity(unit="relative", window=(0.0, 1.0))))
    image = pydicom.dcmread(folder / "case/0000.dcm")
    for file in (image, pydicom.dcmread(folder / "case_mask.dcm")):
        for module in modules[standard.get_sop_class_iod_map()[file.SOPClassUID]]:
            for told in attributes[module["key"]] if module["usage"] == "M" else ():
                if not told["path"] and told["type"] in ("1", "2"):
                    assert told["keyword"] in file, told
                    assert told["type"] == "2" or not file[told["keyword"]].is_empty, told
    conditional = {"PatientOrientation"} if flaws else {"ImagePositionPatient", "ImageOrientationPatient"}
    if not flaws and modality != "XR":
        conditional |= {"PatientPosition"} | ({"RepetitionTime"} if modality == "MR" else set())
    assert not [keyword for keyword in conditional if keyword not in image]
    assert len(image.ImageType) == (2 if modality == "XR" else 3)
    assert [float(value) for value in image.PixelSpacing] == [0.7, 0.65]


def test_dicom_says_what_it_is_and_names_nobody(tmp_path: Path) -> None:
    case = ct_case("0123abcd")
    made = pydicom.dcmread(
        export(tmp_path / "made", "dicom", dataclasses.replace(case, synthetic="generated")) / "0123abcd/0003.dcm"
    )
    assert made.SOPClassUID == uid.CTImageStorage
    assert list(made.ImageType)[:2] == ["DERIVED", "SECONDARY"]
    assert str(made.PatientName) == "SYNTHETIC^0123abcd"
    assert "SYNTHETIC" in made.ImageComments
    assert made.ContentQualification == "RESEARCH"
    assert made.BurnedInAnnotation == "NO"
    assert made.PatientIdentityRemoved == "YES"
    assert (made.SliceThickness, made.SpacingBetweenSlices) == (2.5, 2.5)
    assert [float(value) for value in made.PixelSpacing] == [0.7, 0.65]  # between rows, between columns
    assert (made.WindowCenter, made.WindowWidth) == (-300, 1400)
    assert made.StudyDate == ""
    assert made.InstanceNumber == 4
    real = pydicom.dcmread(
        export(tmp_path / "real", "dicom", case, header=header_of(command="preprocess")) / "0123abcd/0003.dcm"
    )
    assert str(real.PatientName) == "DERIVED^0123abcd"  # real anatomy is not passed off as synthetic
    assert "SYNTHETIC" not in real.ImageComments


def test_dicom_tells_thickness_and_distance_apart_and_keeps_a_frame_of_reference(tmp_path: Path) -> None:
    thick = dataclasses.replace(ct_case("thick"), thickness=4.0, frame="f00d")
    thin = dataclasses.replace(ct_case("thin", seed=2), thickness=1.0, frame="f00d")
    folder = export(tmp_path / "a", "dicom", thick, thin, ct_case("unknown"))
    made = {name: pydicom.dcmread(folder / name / "0001.dcm") for name in ("thick", "thin", "unknown")}
    assert [float(file.SliceThickness) for file in made.values()] == [4.0, 1.0, 2.5]
    assert {float(file.SpacingBetweenSlices) for file in made.values()} == {2.5}
    assert made["thick"].FrameOfReferenceUID == made["thin"].FrameOfReferenceUID != made["unknown"].FrameOfReferenceUID


def test_dicom_uids_are_new_unique_and_the_same_again(tmp_path: Path) -> None:
    def uids(folder: Path) -> list[tuple[str, ...]]:
        files = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
        return [(f.StudyInstanceUID, f.SeriesInstanceUID, f.FrameOfReferenceUID, f.SOPInstanceUID) for f in files]

    first = export(tmp_path / "a", "dicom", ct_case("a"), ct_case("b"))
    second = export(tmp_path / "b", "dicom", ct_case("a"), ct_case("b"))
    other = export(tmp_path / "c", "dicom", ct_case("a", seed=2))
    assert {path.relative_to(first): path.read_bytes() for path in first.rglob("*.*") if path.is_file()} == {
        path.relative_to(second): path.read_bytes() for path in second.rglob("*.*") if path.is_file()
    }
    found = uids(first)
    assert len({row[3] for row in found}) == 10
    assert [len({row[column] for row in found}) for column in range(3)] == [2, 2, 2]
    assert not {value for row in found for value in row} & {value for row in uids(other) for value in row}
    assert all(uid.UID(value).is_valid for row in found for value in row)


@pytest.mark.parametrize(
    ("modality", "unit", "channels", "expected"),
    [
        ("", "HU", 1, uid.CTImageStorage),
        ("CT", "", 1, uid.CTImageStorage),
        ("MR", "", 1, uid.MRImageStorage),
        ("fundus", "", 3, uid.SecondaryCaptureImageStorage),
        ("", "", 1, uid.SecondaryCaptureImageStorage),
    ],
)
def test_storage_class_follows_the_modality(
    tmp_path: Path, modality: str, unit: str, channels: int, expected: str
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, channels, 6, 7)).astype(np.uint8)
    case = Case("c", {"image": image}, modality=(modality,) * 2 if modality else ())
    folder = export(tmp_path / "out", "dicom", case, header=header_of(Intensity(unit=unit, window=(0.0, 255.0))))
    file = pydicom.dcmread(folder / "c/0001.dcm")
    assert file.SOPClassUID == expected
    np.testing.assert_array_equal(file.pixel_array, image[1].transpose(1, 2, 0) if channels == 3 else image[1, 0])
    read = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "c/0001.dcm")))[0]
    np.testing.assert_array_equal(read, file.pixel_array)


def test_png_shows_the_window_or_keeps_the_stored_values(tmp_path: Path) -> None:
    case = ct_case()
    shown = export(tmp_path / "shown", "png", case)
    kept = export(tmp_path / "kept", "png", case, bits=16)
    for index in range(5):
        hu = case["image"][index, 0].astype(np.float64)
        low = np.asarray(Image.open(shown / f"case/{index:04d}.png"))
        assert low.dtype == np.uint8
        np.testing.assert_allclose(low, np.clip((hu + 1000) / 1400, 0, 1) * 255, atol=0.51)
        high = np.asarray(Image.open(kept / f"case/{index:04d}.png")).astype(np.float64)
        facts = json.loads((kept / "intensity.json").read_text())
        np.testing.assert_array_equal(high * facts["scale"] + facts["offset"], hu)
        assert facts["unit"] == "HU"


def test_png_of_colour_of_single_images_and_of_masks(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 6, 7)).astype(np.uint8)
    mask = np.random.default_rng(1).integers(0, 2, (1, 2, 6, 7)).astype(np.uint8)
    header = header_of(Intensity(unit="", window=(0.0, 255.0)))
    folder = export(tmp_path / "out", "png", Case("c", {"image": image, "mask": mask}), header=header)
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "c.png")), image[0].transpose(1, 2, 0))
    for number in range(2):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"c_mask{number}.png")), mask[0, number] * 255)
    with pytest.raises(DataError, match="3 channels"):
        export(tmp_path / "deep", "png", Case("c", {"image": image}), header=header, bits=16)


def test_png_of_what_sixteen_bits_cannot_hold_is_refused(tmp_path: Path) -> None:
    wide = Case("c", {"image": np.full((1, 1, 2, 2), 70_000, np.int32)})
    with pytest.raises(DataError, match="cannot hold"):
        export(tmp_path / "wide", "png", wide, bits=16)
    with pytest.raises(DataError, match="float32"):
        export(tmp_path / "float", "png", Case("c", {"image": np.zeros((1, 1, 2, 2), np.float32)}), bits=16)


@pytest.mark.parametrize(("to", "channels"), [("png", 1), ("png", 3), ("dicom", 1), ("dicom", 3), ("nnunet", 1)])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_not_finite_is_no_grey(tmp_path: Path, to: str, channels: int, value: float) -> None:
    image = np.zeros((1, channels, 2, 2), np.float32)
    image[0, 0, 0, 0] = value
    case = Case("c", {"image": image} | ({"mask": np.zeros((1, 1, 2, 2), np.uint8)} if to == "nnunet" else {}))
    with pytest.raises(DataError, match="case c: has values that are not finite"):
        export(tmp_path / "out", to, case, header=header_of(Intensity(unit="relative", window=(0.0, 1.0))))


@pytest.mark.parametrize("to", ["dicom", "nifti", "png"])
def test_conditions_tell_each_slice_apart(tmp_path: Path, to: str) -> None:
    vector = np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2)
    case = Case(
        "c",
        {"image": np.zeros((5, 1, 4, 4), np.int16), "vector": vector, "label": np.arange(5)},
        split="val",
        text=tuple(f'slice {i}, "quoted"' for i in range(5)),
    )
    folder = export(tmp_path / "out", to, case, header=header_of(fields=("x", "size")))
    rows = list(csv.DictReader((folder / "conditions.csv").open()))
    columns = ["file", "case", "slice", "split", "synthetic", "x", "size", "label", "text", "modality"]
    assert list(rows[0]) == columns
    assert [float(row["size"]) for row in rows] == pytest.approx(vector[:, 1].tolist(), abs=1e-6)
    assert rows[3]["text"] == 'slice 3, "quoted"'
    assert all((folder / row["file"]).is_file() for row in rows)


def test_conditions_call_classes_by_their_names(tmp_path: Path) -> None:
    case = Case("c", {"image": np.zeros((3, 1, 4, 4), np.int16), "label": np.array([2, 0, 1])})
    header = msgspec.structs.replace(header_of(), label_names=("-1", "0", "1"))
    folder = export(tmp_path / "out", "png", case, header=header)
    assert [row["label"] for row in csv.DictReader((folder / "conditions.csv").open())] == ["1", "-1", "0"]


def test_a_case_without_a_text_leaves_its_cell_empty(tmp_path: Path) -> None:
    arrays = {"image": np.zeros((1, 1, 4, 4), np.int16)}
    cases = [Case("a", arrays), Case("b", arrays, modality=("MR",)), Case("c", arrays, text=("a lung",))]
    folder = export(tmp_path / "out", "png", *cases)
    rows = list(csv.DictReader((folder / "conditions.csv").open()))
    assert [(row["text"], row["modality"]) for row in rows] == [("", ""), ("", "MR"), ("a lung", "")]


def test_split_and_limit_choose_cases(tmp_path: Path) -> None:
    cases = [
        Case(f"c{i}", {"image": np.zeros((1, 1, 4, 4), np.int16)}, split="val" if i % 2 else "train") for i in range(6)
    ]
    folder = export(tmp_path / "out", "png", *cases, split="val", limit=2)
    assert sorted(path.name for path in folder.glob("*.png")) == ["c1.png", "c3.png"]
    with pytest.raises(DataError, match="no case is in split 'test'"):
        export(tmp_path / "none", "png", *cases, split="test")
    with pytest.raises(DataError, match="holds no case"):
        export(tmp_path / "empty", "png")


def test_a_limit_still_reads_the_whole_stream(tmp_path: Path) -> None:
    def cases() -> Any:
        yield ct_case("a")
        raise DataError("truncated")

    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="truncated"):
        export_cases(header_of(), cases(), tmp_path / "out", ExportOptions(to="png", limit=1))


def test_latents_are_no_images(tmp_path: Path) -> None:
    header = SetHeader("latent", Provenance(header_of().provenance.steps))
    with pytest.raises(DataError, match="latent set holds no images"):
        export(tmp_path / "out", "png", header=header)


@given(st.lists(st.text(max_size=150), unique=True, max_size=8))
def test_names_stay_in_their_folder_and_differ(ids: list[str]) -> None:
    names = FileNames()
    taken = [names.take(case_id) for case_id in ids]
    assert len({name.lower() for name in taken}) == len(ids)
    for name in taken:
        assert Path(name).name == name
        assert name.strip(".") == name
        assert name.isascii()
        assert 0 < len(name) <= LONGEST_NAME + 9


@pytest.mark.parametrize(
    "evil", ["../up", "/etc/passwd", "..", ".", "", "a/../../b", "con\\nul", "x\0y", "conditions.csv"]
)
def test_evil_ids_cannot_escape(tmp_path: Path, evil: str) -> None:
    folder = export(tmp_path / "deep", "nifti", Case(evil, {"image": np.zeros((1, 1, 2, 2), np.int16)}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
    assert len(list(folder.glob("*.nii.gz"))) == 1


def test_a_case_named_like_a_mask_takes_no_masks_place(tmp_path: Path) -> None:
    arrays = {"image": np.zeros((1, 1, 2, 2), np.int16), "mask": np.ones((1, 1, 2, 2), np.uint8)}
    folder = export(tmp_path / "out", "nifti", Case("a", arrays), Case("a_mask", arrays))
    assert len(list(folder.glob("*.nii.gz"))) == 4


def test_the_same_id_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="case twin: occurs twice"):
        export(tmp_path / "out", "png", *[Case("twin", {"image": np.zeros((1, 1, 2, 2), np.int16)})] * 3)


@given(st.floats(-1e100, 1e100))
def test_decimal_strings_fit_and_are_close(value: float) -> None:
    text = decimal(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-8, abs=1e-300)


def test_derived_uids_depend_on_every_part() -> None:
    assert derived_uid("a", 1) == derived_uid("a", 1)
    assert len({derived_uid("a", 1), derived_uid("a", 2), derived_uid("b", 1), derived_uid("a1")}) == 4
    assert all(uid.UID(derived_uid(index)).is_valid for index in range(50))
