"""Segmentations and structure sets of DICOM: what they draw, over which slices, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import ExplicitVRLittleEndian

from medgen.artifacts.sets import open_set
from medgen.cli.app import run
from medgen.errors import MedgenError
from medgen.imaging.masks.classes import declared
from medgen.imaging.masks.sources import filled

WriteSlice = Callable[..., Path]
DEPTH, SIZE = 4, 32
SERIES, FRAME = "1.2.3.2", "1.2.3.9"
LOW = np.random.default_rng(0).integers(-900, 900, (DEPTH, SIZE, SIZE)).astype(np.int16)
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]
DISC = (ROWS - 12) ** 2 + (COLUMNS - 14) ** 2 < 49
BAR = (ROWS > 20) & (COLUMNS > 4)


@pytest.fixture
def ct(write_slice: WriteSlice, tmp_path: Path) -> Path:
    for index, pixels in enumerate(LOW):
        write_slice(
            tmp_path / "ct" / f"{index}.dcm",
            pixels,
            z=2.5 * index,
            SOPInstanceUID=f"1.2.5.{index + 1}",
            FrameOfReferenceUID=FRAME,
        )
    return tmp_path / "ct"


def item(**values: Any) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def save(path: Path, dataset: Dataset, sop_class: str) -> Path:
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, f"1.2.6.{len(path.stem)}"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def write_seg(
    path: Path,
    names: Mapping[int, str],
    frames: Sequence[tuple[int, int, Any]],
    *,
    kind: str = "BINARY",
    placed: bool = True,
    named: bool = True,
    shift: float = 0.0,
    axes: Sequence[float] = (1, 0, 0, 0, 1, 0),
) -> Path:
    """Frames are (segment, slice, pixels), in any order."""
    dataset = Dataset()
    dataset.Modality, dataset.SegmentationType = "SEG", kind
    dataset.FrameOfReferenceUID = FRAME
    dataset.SegmentSequence = [item(SegmentNumber=number, SegmentLabel=name) for number, name in names.items()]
    if named:
        dataset.ReferencedSeriesSequence = [item(SeriesInstanceUID=SERIES)]
    groups = []
    for segment, index, _ in frames:
        group = Dataset()
        if kind != "LABELMAP":
            group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=segment)]
        if placed:
            group.PlanePositionSequence = [item(ImagePositionPatient=[-10.0, -20.0, 2.5 * index + shift])]
        if named:
            source = item(
                ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=f"1.2.5.{index + 1}"
            )
            group.DerivationImageSequence = [item(SourceImageSequence=[source])]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.SharedFunctionalGroupsSequence = [item(PlaneOrientationSequence=[item(ImageOrientationPatient=list(axes))])]
    pixels = np.stack([np.asarray(plane) for _, _, plane in frames]).astype(np.uint8)
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    bits = 1 if kind == "BINARY" else 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelData = pack_bits(pixels.ravel()) if bits == 1 else pixels.tobytes()
    if kind == "FRACTIONAL":
        dataset.MaximumFractionalValue = 200
    return save(path, dataset, "1.2.840.10008.5.1.4.1.1.66.4")


def write_structures(
    path: Path, regions: Mapping[str, Sequence[tuple[float, Any]]], kind: str = "CLOSED_PLANAR"
) -> Path:
    """Contours are (z in mm, corners as (x, y) in mm from the first pixel's centre)."""
    dataset = Dataset()
    dataset.Modality = "RTSTRUCT"
    numbered = list(enumerate(regions.items(), 1))
    dataset.StructureSetROISequence = [item(ROINumber=number, ROIName=name) for number, (name, _) in numbered]
    dataset.ReferencedFrameOfReferenceSequence = [
        item(
            FrameOfReferenceUID=FRAME,
            RTReferencedStudySequence=[item(RTReferencedSeriesSequence=[item(SeriesInstanceUID=SERIES)])],
        )
    ]
    dataset.ROIContourSequence = [
        item(
            ReferencedROINumber=number,
            ContourSequence=[
                item(
                    ContourGeometricType=kind,
                    NumberOfContourPoints=len(corners),
                    ContourData=[round(v, 4) for x, y in corners for v in (x - 10.0, y - 20.0, z)],
                )
                for z, corners in contours
            ],
        )
        for number, (_, contours) in numbered
    ]
    return save(path, dataset, "1.2.840.10008.5.1.4.1.1.481.3")


def circle(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return [(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in angles]


def square(low: float, high: float) -> list[tuple[float, float]]:
    return [(low, low), (high, low), (high, high), (low, high)]


def read(ct: Path, masks: Path, *more: str) -> tuple[int, tuple[str, ...], Any]:
    out = ct.parent / "out.h5"
    out.unlink(missing_ok=True)
    status = run(["preprocess", str(ct), "--masks", str(masks), "--workers", "1", "-o", str(out), *more])
    if not out.exists():
        return status, (), None
    with open_set(out) as reader:
        (case,) = reader
        return status, reader.header.mask_names, case["mask"][:, 0]


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_frames_find_their_slices_by_place_or_by_reference(ct: Path, tmp_path: Path, placed: bool, named: bool) -> None:
    frames = [(2, 3, BAR), (1, 1, DISC), (2, 1, BAR)]
    path = write_seg(tmp_path / "seg" / "s.dcm", {1: "liver", 2: "tumour, left"}, frames, placed=placed, named=named)
    status, names, mask = read(ct, path)
    if not (placed or named):
        assert status == 65
        return
    assert names == ("background", "liver", "tumour left")
    expected = np.zeros((DEPTH, SIZE, SIZE), np.uint8)
    expected[1] = DISC + 2 * BAR
    expected[3] = 2 * BAR
    np.testing.assert_array_equal(mask, expected)


def test_fractions_are_cut_at_half_and_label_maps_read(ct: Path, tmp_path: Path) -> None:
    fractions = np.where(DISC, 120, 80)
    path = write_seg(tmp_path / "f.dcm", {1: "liver"}, [(1, 2, fractions)], kind="FRACTIONAL")
    _, names, mask = read(ct, path)
    assert names == ("background", "liver")
    np.testing.assert_array_equal(mask[2], DISC)
    path = write_seg(tmp_path / "l.dcm", {3: "a", 5: "b"}, [(0, 2, 3 * DISC + 5 * BAR)], kind="LABELMAP")
    _, names, mask = read(ct, path)
    assert names == ("background", "a", "b")
    np.testing.assert_array_equal(mask[2], DISC + 2 * BAR)


def test_the_palette_of_a_label_map_does_not_change_its_classes(ct: Path, tmp_path: Path) -> None:
    path = write_seg(tmp_path / "l.dcm", {3: "a", 5: "b"}, [(0, 2, 3 * DISC + 5 * BAR)], kind="LABELMAP")
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [6, 0, 8])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", bytes([0, 5, 5, 200, 5, 3]))
    dataset.save_as(path, overwrite=True)
    _, names, mask = read(ct, path)
    assert names == ("background", "a", "b")
    np.testing.assert_array_equal(mask[2], DISC + 2 * BAR)


def test_overlap_is_refused_unless_the_order_is_given(
    ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = np.ones((SIZE, SIZE))
    path = write_seg(
        tmp_path / "s.dcm", {1: "tumour", 2: "liver", 3: "body"}, [(1, 1, DISC), (2, 1, DISC | BAR), (3, 0, whole)]
    )
    status, _, _ = read(ct, path)
    told = capsys.readouterr().err
    assert status == 65
    assert f"s.dcm: tumour and liver share {DISC.sum()} pixels" in told
    status, names, mask = read(ct, path, "--mask-classes", "liver,tumour")
    told = capsys.readouterr().err
    assert (status, names) == (0, ("background", "liver", "tumour"))
    np.testing.assert_array_equal(mask[1], np.where(DISC, 2, BAR))
    assert not mask[0].any()
    assert "does not name them: body" in told
    assert f"share {DISC.sum()} pixels: the later one" in told
    read(ct, path, "--mask-classes", "liver,tumor")
    assert "no mask shows the class tumor; did you mean 'tumour'?" in capsys.readouterr().err


def test_what_does_not_fit_the_slices_is_named(ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        "between.dcm: frame 1, at -10, -20, 3.75 mm, lies on no slice": {"shift": 1.25},
        "between.dcm: has 20 x 20 pixels, its image": {"size": 20},
        "between.dcm: an empty mask": {"empty": True},
    }
    for told, harm in cases.items():
        plane = DISC[: harm.get("size"), : harm.get("size")] * (not harm.get("empty"))
        path = write_seg(tmp_path / "between.dcm", {1: "liver"}, [(1, 1, plane)], shift=float(harm.get("shift", 0)))
        status, _, _ = read(ct, path, "--mask-classes", "liver")
        err = capsys.readouterr().err
        assert status == 65
        assert told in err or (harm.get("empty") and "no mask shows any class" in err)
    path = write_seg(tmp_path / "mirrored.dcm", {1: "liver"}, [(1, 1, DISC)], axes=(-1, 0, 0, 0, 1, 0))
    assert read(ct, path)[0] == 65
    assert "mirrored.dcm: the rows and columns of frame 1 run in other directions" in capsys.readouterr().err
    twice = tmp_path / "twice"
    for name in ("a", "bb"):
        write_seg(twice / f"{name}.dcm", {1: "liver"}, [(1, 1, DISC)])
    assert read(ct, twice)[0] == 65
    assert "bb.dcm: shows 'liver' on" in capsys.readouterr().err


def test_a_segmentation_of_another_series_is_a_mask_without_its_image(
    ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_seg(tmp_path / "seg" / "s.dcm", {1: "liver"}, [(1, 1, DISC)])
    dataset = pydicom.dcmread(path)
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.9"
    del dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    dataset.save_as(path)
    assert read(ct, tmp_path / "seg")[0] == 65
    assert "s.dcm: a mask without its image" in capsys.readouterr().err


def test_a_folder_may_hold_the_series_and_its_segmentation(ct: Path) -> None:
    write_seg(ct / "s.dcm", {1: "liver"}, [(1, 1, DISC)])
    _, names, mask = read(ct, ct)
    assert names == ("background", "liver")
    np.testing.assert_array_equal(mask[1], DISC)


def test_contours_are_filled_at_pixel_centres(ct: Path, tmp_path: Path) -> None:
    """A pixel measures 0.5 mm; the disc lies where the formula says."""
    path = write_structures(
        tmp_path / "rs" / "s.dcm", {"lesion": [(2.5, circle(7.0, 6.0, 3.49)), (5.0, circle(7.0, 6.0, 1.9))]}
    )
    _, names, mask = read(ct, tmp_path / "rs")
    assert names == ("background", "lesion")
    away = np.hypot(COLUMNS * 0.5 - 7.0, ROWS * 0.5 - 6.0)
    np.testing.assert_array_equal(mask[1], away < 3.49)
    np.testing.assert_array_equal(mask[2], away < 1.9)
    assert not mask[[0, 3]].any()
    assert path.exists()


@pytest.mark.parametrize("way", ["second contour", "keyhole"])
def test_holes_stay_open(ct: Path, tmp_path: Path, way: str) -> None:
    outer, inner = square(2.1, 12.1), square(5.1, 8.1)
    keyhole = [*outer, outer[0], inner[0], *reversed(inner[1:]), inner[0], outer[0]]
    contours = [(0.0, keyhole)] if way == "keyhole" else [(0.0, outer), (0.0, inner)]
    path = write_structures(tmp_path / "s.dcm", {"ring": contours})
    _, _, mask = read(ct, path)
    x, y = COLUMNS * 0.5, ROWS * 0.5
    inside = [(x > low) & (x < high) & (y > low) & (y < high) for low, high in ((2.1, 12.1), (5.1, 8.1))]
    np.testing.assert_array_equal(mask[0], inside[0] & ~inside[1])


def test_a_contour_that_is_listed_twice_is_no_hole(ct: Path, tmp_path: Path) -> None:
    contours = [(2.5, square(2.1, 12.1)), (5.0, square(2.1, 9.1)), (2.5, square(2.1, 12.1))]
    _, _, mask = read(ct, write_structures(tmp_path / "s.dcm", {"lesion": contours}))
    assert mask.sum(axis=(1, 2)).tolist() == [0, 20 * 20, 14 * 14, 0]


@pytest.mark.parametrize(("drawn", "told"), [((0, 2, 4), True), ((0, 2, 3, 5), False), ((0, 4), False)])
def test_structures_on_every_second_slice_are_told(
    write_slice: WriteSlice, tmp_path: Path, drawn: tuple[int, ...], told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(6):
        write_slice(tmp_path / "ct" / f"{index}.dcm", LOW[0] + index, z=2.5 * index, FrameOfReferenceUID=FRAME)
    contours = [(2.5 * index, square(2, 8)) for index in drawn]
    _, _, mask = read(tmp_path / "ct", write_structures(tmp_path / "s.dcm", {"lesion": contours}))
    assert tuple(np.flatnonzero(mask.any(axis=(1, 2)))) == drawn
    assert ("s.dcm: lesion is drawn on every second slice at most" in capsys.readouterr().err) == told


def test_area_of_a_polygon_is_that_of_its_pixels() -> None:
    corners = np.array([[3.2, 4.1], [50.7, 20.3], [30.4, 55.8]])
    (r0, c0), (r1, c1), (r2, c2) = corners
    area = 0.5 * abs((r1 - r0) * (c2 - c0) - (r2 - r0) * (c1 - c0))
    assert filled([corners], (64, 64)).sum() == pytest.approx(area, rel=0.02)


@pytest.mark.parametrize(
    ("contour", "told"),
    [
        ((3.7, square(2, 8)), "a contour of lesion lies between two slices"),
        ((12.0, square(2, 8)), "a contour of lesion lies beyond the outermost slice"),
    ],
)
def test_contours_off_the_slices_are_named(
    ct: Path, tmp_path: Path, contour: tuple[float, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_structures(tmp_path / "s.dcm", {"lesion": [(2.5, square(2, 8)), contour]})
    assert read(ct, path)[0] == 65
    assert told in capsys.readouterr().err


def test_points_are_no_areas(ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_structures(tmp_path / "s.dcm", {"isocentre": [(2.5, [(5.0, 5.0)])]}, kind="POINT")
    assert read(ct, path)[0] == 65
    assert "s.dcm: its structures have no closed contours" in capsys.readouterr().err


def test_askew_contours_are_named(ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_structures(tmp_path / "s.dcm", {"lesion": [(2.5, square(2, 8))]})
    dataset = pydicom.dcmread(path)
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [float(v) + (3.0 if at == 2 else 0.0) for at, v in enumerate(contour.ContourData)]
    dataset.save_as(path)
    assert read(ct, path)[0] == 65
    assert "is not parallel to the slices" in capsys.readouterr().err


@pytest.mark.parametrize(("thickness", "sources"), [("1.25", [0, 0, 1, 1, 2, 2, 3, 3]), ("5", [0, 2])])
def test_resampled_slices_have_the_classes_of_the_nearest(
    ct: Path, tmp_path: Path, thickness: str, sources: list[int]
) -> None:
    """Averages of classes are no classes."""
    frames = [(1, 0, DISC), (3, 1, DISC), (3, 2, BAR), (1, 3, BAR)]
    path = write_seg(tmp_path / "s.dcm", {1: "a", 2: "b", 3: "c"}, frames)
    _, names, mask = read(ct, path, "--thickness", thickness, "--mask-classes", "a,b,c")
    assert names == ("background", "a", "b", "c")
    whole = np.stack([DISC, 3 * DISC, 3 * BAR, 1 * BAR])
    np.testing.assert_array_equal(mask, whole[sources])


def test_each_file_of_a_series_may_have_a_mask_of_its_own(
    ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "masks").mkdir()
    for index in range(DEPTH):
        plane = np.where(DISC if index % 2 else BAR, 255, 0).astype(np.uint8)
        Image.fromarray(plane).save(tmp_path / "masks" / f"{index}_mask.png")
    _, names, mask = read(ct, tmp_path / "masks")
    assert names == ("background", "foreground")
    np.testing.assert_array_equal(mask, np.stack([BAR, DISC, BAR, DISC]))
    (tmp_path / "masks" / "2_mask.png").unlink()
    assert read(ct, tmp_path / "masks")[0] == 65
    assert "not every slice has a mask" in capsys.readouterr().err
    _, _, mask = read(ct, tmp_path / "masks", "--masks-optional")
    np.testing.assert_array_equal(mask, np.stack([BAR, DISC, np.zeros_like(BAR), DISC]))


def test_a_mask_named_like_a_folder_goes_to_the_series_that_it_fits(
    ct: Path, write_slice: WriteSlice, tmp_path: Path
) -> None:
    for index in range(2):
        pixels = LOW[index, :20, :20].copy()
        write_slice(
            ct / f"scout{index}.dcm", pixels, z=9.0 * index, SeriesInstanceUID="1.7", SOPInstanceUID=f"1.7.{index}"
        )
    affine = np.diag([-0.5, -0.5, 2.5, 1.0])
    affine[:3, 3] = 10, 20, 0
    labels = np.stack([DISC] * DEPTH).astype(np.uint8)
    (tmp_path / "masks").mkdir()
    nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine), tmp_path / "masks" / "ct.nii.gz")  # type: ignore[attr-defined,no-untyped-call]
    _, _, mask = read(ct, tmp_path / "masks", "--min-slices", "3")
    np.testing.assert_array_equal(mask, labels)


def test_a_damaged_object_is_left_out_and_the_others_are_read(
    ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "objects"
    write_seg(folder / "good.dcm", {1: "liver"}, [(1, 1, DISC)])
    damaged = write_structures(folder / "r.dcm", {"lesion": [(2.5, square(2, 8))]})
    damaged.write_bytes(damaged.read_bytes().replace(b"CLOSED_PLANAR", b"CLOSED_PLONAR"))
    assert read(ct, folder)[0] == 65
    assert "r.dcm: its structures have no closed contours" in capsys.readouterr().err
    status, _, mask = read(ct, folder, "--keep-going")
    assert status == 1
    np.testing.assert_array_equal(mask[1], DISC)


def test_other_stacks_of_the_series_are_not_meant(ct: Path, write_slice: WriteSlice, tmp_path: Path) -> None:
    """A localizer in the same series has no mask of its own."""
    tags = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "SOPInstanceUID": "1.2.8", "FrameOfReferenceUID": FRAME}
    write_slice(ct / "scout.dcm", LOW[0], **tags)
    path = write_seg(tmp_path / "s.dcm", {1: "liver"}, [(1, 1, DISC)])
    out = tmp_path / "out.h5"
    call = ["preprocess", str(ct), "--masks", str(path), "--masks-optional", "--workers", "1", "-o", str(out)]
    assert run(call) == 0
    with open_set(out) as reader:
        assert sorted(int(case["mask"].sum()) for case in reader) == [0, DISC.sum()]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [("polyp,1\npolyp,2\n", "names polyp twice"), ("polyp,1\nscar,2,3\n", "row 3: 3 cells")],
)
def test_a_faulty_table_of_classes_loses_none_of_them(tmp_path: Path, rows: str, reason: str) -> None:
    (tmp_path / "classes.csv").write_text(f"name,value\n{rows}")
    with pytest.raises(MedgenError, match=reason):
        declared("", str(tmp_path))
