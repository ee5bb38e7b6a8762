"""A whole case: anatomy in plausible HU, any thickness from one anatomy, truth that agrees with the pixels."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from msgspec.structs import replace

from medgen.diffusion.slice_profile import profile_matrix, resample
from medgen.errors import ConfigError
from medgen.phantoms.chest.anatomy import ChestAnatomy
from medgen.phantoms.chest.chest_ct import FOLDERS, LABEL_FIELDS, write_case
from medgen.phantoms.chest.ct_scanner import Scanner, ScanSeries
from medgen.phantoms.options import ChestCTOptions
from medgen.phantoms.pictures import Rows
from medgen.phantoms.primitives import Grid

SMALL = ChestCTOptions(scout_fraction=0.0, size=96, slices=10, diameter=(15.0, 40.0), healthy_fraction=0.0)


def make(folder: Path, index: int = 0, options: ChestCTOptions = SMALL, seed: int = 0) -> Rows:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    return write_case(replace(options, seed=seed), index, folder)


def read_series(archive: Path, unpacked: Path) -> SimpleITK.Image:
    """The series as SimpleITK reads it, slices in order of position."""
    with zipfile.ZipFile(archive) as bundle:
        bundle.extractall(unpacked)
    names = [str(path) for path in unpacked.rglob("*") if path.is_file()]
    names.sort(key=lambda name: float(pydicom.dcmread(name, stop_before_pixels=True).ImagePositionPatient[2]))
    return SimpleITK.ReadImage(names)


def test_same_seed_same_bytes_whatever_else_is_made(tmp_path: Path) -> None:
    rows = make(tmp_path / "a", 3)
    make(tmp_path / "b", 1)
    assert make(tmp_path / "b", 3) == rows
    for name in ("dicom/case-0003.zip", "masks/case-0003.nii.gz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    make(tmp_path / "c", 3, seed=1)
    assert (tmp_path / "a/dicom/case-0003.zip").read_bytes() != (tmp_path / "c/dicom/case-0003.zip").read_bytes()


@pytest.mark.parametrize("index", range(6))
def test_an_independent_reader_sees_the_series_and_the_mask_in_the_same_place(tmp_path: Path, index: int) -> None:
    make(tmp_path, index)
    image = read_series(tmp_path / "dicom" / f"case-{index:04d}.zip", tmp_path / "unpacked")
    mask = SimpleITK.ReadImage(str(tmp_path / f"masks/case-{index:04d}.nii.gz"))
    assert image.GetSize() == mask.GetSize() == (96, 96, 10)
    np.testing.assert_allclose(image.GetSpacing(), mask.GetSpacing(), rtol=1e-5)
    assert image.GetSpacing()[2] == pytest.approx(5.0)
    np.testing.assert_allclose(image.GetOrigin(), mask.GetOrigin(), atol=2e-3)
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).reshape(-1), atol=1e-6)
    np.testing.assert_allclose(mask.GetDirection(), np.eye(3).reshape(-1), atol=1e-5)
    voxels = SimpleITK.GetArrayFromImage(image)
    inside = SimpleITK.GetArrayFromImage(mask) > 0
    assert inside.any()
    middle = voxels[:, 24:72, 24:72]
    assert -900 < np.percentile(middle, 10) < -700  # lung
    assert 20 < np.percentile(middle, 90) < 350  # blood with or without contrast medium, and bone
    assert voxels[inside].mean() > np.percentile(middle, 25) + 60  # nodules are denser than lung


def test_labels_are_the_boxes_of_the_masks(tmp_path: Path) -> None:
    options = ChestCTOptions(size=96, slices=10, nodules=(1, 1), diameter=(15.0, 40.0), healthy_fraction=0.0)
    for index in range(3):
        rows = make(tmp_path, index, options)
        mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / f"masks/case-{index:04d}.nii.gz")))
        labels = {int(str(row[1])): dict(zip(LABEL_FIELDS, row, strict=True)) for row in rows["labels.csv"]}
        assert sorted(labels) == np.flatnonzero(mask.any(axis=(1, 2))).tolist()
        for level, label in labels.items():
            ys, xs = np.nonzero(mask[level])
            assert float(str(label["x"])) == pytest.approx((xs.min() + xs.max() + 1) / 2 / 96, abs=1e-6)
            assert float(str(label["y"])) == pytest.approx((ys.min() + ys.max() + 1) / 2 / 96, abs=1e-6)
            longest = max(xs.max() - xs.min(), ys.max() - ys.min()) + 1
            assert float(str(label["size"])) == pytest.approx(longest / 96, abs=1e-6)
            assert all(0.0 <= float(str(label[name])) <= 1.0 for name in LABEL_FIELDS[2:])
            assert label["has_nodule"] == 1


def test_nodule_truth_in_mm_is_where_the_mask_is(tmp_path: Path) -> None:
    options = ChestCTOptions(size=128, slices=24, nodules=(1, 1), diameter=(15.0, 20.0), healthy_fraction=0.0)
    rows = make(tmp_path, 5, options)
    (nodule,) = rows["nodules.csv"]
    mask = SimpleITK.ReadImage(str(tmp_path / "masks/case-0005.nii.gz"))
    z, y, x = (float(values.mean()) for values in np.nonzero(SimpleITK.GetArrayFromImage(mask)))
    place = mask.TransformContinuousIndexToPhysicalPoint((x, y, z))
    truth = [float(str(value)) for value in nodule[2:5]]
    assert np.linalg.norm(np.subtract(place, truth)) < 4.0


def test_healthy_cases_have_no_rows_and_an_empty_mask(tmp_path: Path) -> None:
    rows = make(tmp_path, 0, ChestCTOptions(size=32, slices=3, healthy_fraction=1.0))
    assert rows["labels.csv"] == rows["nodules.csv"] == []
    assert not SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "masks/case-0000.nii.gz"))).any()


def test_a_scout_is_a_series_of_its_own(tmp_path: Path) -> None:
    make(tmp_path, 0, ChestCTOptions(size=48, slices=5, scout_fraction=1.0))
    with zipfile.ZipFile(tmp_path / "dicom/case-0000.zip") as bundle:
        files = [pydicom.dcmread(io.BytesIO(bundle.read(name))) for name in bundle.namelist()]
    series = {file.SeriesInstanceUID for file in files}
    (scout,) = [file for file in files if "LOCALIZER" in file.ImageType]
    assert (len(files), len(series)) == (6, 2)
    assert [file.SeriesInstanceUID for file in files].count(scout.SeriesInstanceUID) == 1
    assert (scout.Rows, scout.Columns) == (5, 48)
    assert len({file.SOPInstanceUID for file in files}) == 6
    assert len({file.FrameOfReferenceUID for file in files}) == 1


def volume_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The only series of case 1: HU and the heights of its slices."""
    image = read_series(folder / "dicom/case-0001.zip", folder / "files")
    heights = image.GetOrigin()[2] + image.GetSpacing()[2] * np.arange(image.GetSize()[2])
    return SimpleITK.GetArrayFromImage(image).astype(np.float64), heights


def averaged(thin: np.ndarray, at: np.ndarray, thick_at: np.ndarray, thickness: float) -> np.ndarray:
    matrix = profile_matrix(torch.tensor(thick_at), torch.tensor(at), thickness)
    return resample(torch.tensor(thin), matrix).numpy()


ILL = ChestCTOptions(
    size=64, nodules=(2, 2), diameter=(10.0, 30.0), healthy_fraction=0.0, scout_fraction=0.0, pitch=1.0
)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_thick_slices_are_means_of_the_thin_ones_of_one_seed(tmp_path: Path, noise: float) -> None:
    """Made apart: same patient, same place, same scan; rounding to whole HU is all that is between them."""
    thick = replace(ILL, slices=6, thickness=5.0, noise=noise)
    thin = replace(ILL, slices=30, thickness=1.0, noise=noise)
    rows = [make(tmp_path / name, 1, options) for name, options in (("thick", thick), ("thin", thin))]
    assert [row[2:8] for row in rows[0]["nodules.csv"]] == [row[2:8] for row in rows[1]["nodules.csv"]]
    (coarse, coarse_at), (fine, fine_at) = volume_of(tmp_path / "thick"), volume_of(tmp_path / "thin")
    assert len(coarse) == 6
    assert len(fine) == 30
    error = np.abs(averaged(fine, fine_at, coarse_at, 5.0) - coarse)[:, 8:56, 8:56]
    assert error.max() < 1.1
    assert np.abs(coarse[1:] - coarse[:-1])[:, 8:56, 8:56].mean() > 20.0  # neighbours differ much more


@pytest.mark.parametrize(("thickness", "step"), [(5.0, 5.0), (3.7, 3.7), (2.5, 4.0), (5.0, 2.5)])
def test_pairs_hold_whatever_the_ratio_gap_or_overlap(thickness: float, step: float) -> None:
    anatomy = ChestAnatomy.draw(np.random.default_rng(2))
    series = [ScanSeries(-10.0, 20, 1.0, 1.0), ScanSeries(-10.0, int(20 / step), step, thickness)]
    scanner = Scanner(noise=8.0, blur=0.6, grain=0.6, streaks=2.0)
    (thin, thick), _ = scanner.scan((0,), anatomy, Grid(48, 7.2), series, 1.7)
    assert len(thick) == int(20 / step)
    inner = slice(1, -1)  # where no thick slice hangs over the end of the thin ones
    expected = averaged(thin, series[0].heights, series[1].heights, thickness)
    np.testing.assert_allclose(expected[inner], thick[inner], atol=0.02)


def test_series_that_compute_other_planes_agree_within_their_sampling() -> None:
    anatomy = ChestAnatomy.draw(np.random.default_rng(2))
    quiet = Scanner(noise=0.0, blur=0.6, grain=0.6, streaks=0.0)
    thick = ScanSeries(-10.0, 4, 5.0, 5.0)
    made = [quiet.scan((0,), anatomy, Grid(96, 3.6), [thick], limit)[0][0] for limit in (1.7, 1.0, 0.5)]
    assert np.abs(made[0] - made[2]).mean() < 4.0
    assert np.abs(made[1] - made[2]).mean() < 2.0
    assert np.abs(made[0] - made[2]).mean() < 0.1 * np.abs(made[0][1:] - made[0][:-1]).mean()


@pytest.mark.parametrize(
    ("thickness", "step", "pitch"), [(5.0, 5.0, 5 / 3), (1.0, 1.0, 1.0), (2.0, 15.0, 1.0), (1.25, 1.0, 0.25), (5, 7, 1)]
)
def test_planes_divide_thickness_and_step(thickness: float, step: float, pitch: float) -> None:
    assert ScanSeries(0.0, 4, step, thickness).pitch(1.7) == pytest.approx(pitch)


def test_a_second_series_lies_in_the_same_archive_and_frame(tmp_path: Path) -> None:
    rows = make(tmp_path / "pair", 1, replace(ILL, slices=30, thickness=1.0, thick=5.0))
    alone = make(tmp_path / "thin", 1, replace(ILL, slices=30, thickness=1.0))
    assert rows == alone  # truth is that of the thin series
    with zipfile.ZipFile(tmp_path / "pair/dicom/case-0001.zip") as bundle:
        files = [pydicom.dcmread(io.BytesIO(bundle.read(name))) for name in bundle.namelist()]
    counts = Counter((float(file.SliceThickness), file.SeriesInstanceUID) for file in files)
    assert sorted((thickness, count) for (thickness, _), count in counts.items()) == [(1.0, 30), (5.0, 6)]
    frames = {file.FrameOfReferenceUID for file in files}
    with zipfile.ZipFile(tmp_path / "thin/dicom/case-0001.zip") as bundle:
        frames |= {pydicom.dcmread(io.BytesIO(bundle.read(name))).FrameOfReferenceUID for name in bundle.namelist()}
    assert len(frames) == 1
    make(tmp_path / "other", 1, replace(ILL, slices=31, thickness=1.0))  # another extent: other nodules
    with zipfile.ZipFile(tmp_path / "other/dicom/case-0001.zip") as bundle:
        assert pydicom.dcmread(io.BytesIO(bundle.read(bundle.namelist()[0]))).FrameOfReferenceUID not in frames


def test_people_differ() -> None:
    grid = Grid(48, 8.0)
    planes = [ChestAnatomy.draw(np.random.default_rng(seed)).plane(-20.0, grid)[0] for seed in range(4)]
    for first in range(4):
        for second in range(first):
            assert np.abs(planes[first] - planes[second]).mean() > 25.0


def test_noise_falls_as_thickness_grows_and_follows_the_dose() -> None:
    anatomy = ChestAnatomy.draw(np.random.default_rng(0))
    deviations = []
    for noise, thickness in ((0.0, 5.0), (10.0, 5.0), (10.0, 1.0), (20.0, 1.0)):
        scanner = Scanner(noise=1.0, blur=0.5, grain=0.6, streaks=0.0).at_dose(noise)
        series = [ScanSeries(-10.0, 1, thickness, thickness)]
        pair = [scanner.scan((k,), anatomy, Grid(128, 2.8), series, 1.0)[0][0] for k in range(2)]
        deviations.append(float((pair[0] - pair[1]).std()))
    assert deviations[0] == 0.0
    assert deviations[2] == pytest.approx(math.sqrt(5.0) * deviations[1], rel=0.05)  # photons a slice
    assert deviations[3] == pytest.approx(2 * deviations[2], rel=0.05)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"slices": 3, "thickness": 1.0, "thick": 5.0}, "leave no room"),
        ({"thickness": 5.0, "thick": 1.0}, "less than the thickness of the first"),
    ],
)
def test_a_second_series_must_fit(bad: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ChestCTOptions(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"nodules": (3, 1)}, {"diameter": (30.0, 6.0)}, {"texture": (5.0, 4.0)}])
def test_ranges_upside_down_are_refused(bad: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match="smaller number first"):
        ChestCTOptions(**bad)  # type: ignore[arg-type]


def test_columns_of_labels_are_the_contract() -> None:
    assert ",".join(LABEL_FIELDS) == "case,slice,has_nodule,x,y,size,malignancy,texture"
    assert next(csv.reader([",".join(LABEL_FIELDS)])) == list(LABEL_FIELDS)


def test_captions_say_of_each_slice_what_its_labels_and_nodules_say(tmp_path: Path) -> None:
    for name in ("dicom", "masks"):
        (tmp_path / name).mkdir()
    options = ChestCTOptions(size=48, slices=8, healthy_fraction=0.0, diameter=(20.0, 40.0), seed=2)
    sides = set()
    for index in range(4):
        rows = write_case(options, index, tmp_path)
        ill = {row[1] for row in rows["labels.csv"]}
        assert [row[:2] for row in rows["captions.csv"]] == [(f"dicom/case-{index:04d}.zip", at) for at in range(8)]
        for (_, level, text, modality), truth in zip(rows["captions.csv"], rows["truth.csv"], strict=True):
            assert modality == truth[2] == "chest ct"
            assert (truth[5] == "nodule") == (level in ill) == ("nodule" in str(text))
            cut = [
                row
                for row in rows["nodules.csv"]
                if row[8] != "" and int(str(row[8])) <= int(str(level)) <= int(str(row[9]))
            ]
            assert truth[7] == len(cut)
            sides.add(truth[4])
    assert sides == {"", "left", "right"}


def test_a_caption_tells_the_size_at_which_its_slice_cuts_the_nodule(tmp_path: Path) -> None:
    told: dict[str, list[float]] = {}
    for index in range(2):
        rows = make(tmp_path, index, replace(SMALL, nodules=(1, 1), texture=(4.0, 5.0)))
        assert all(4.0 <= float(str(row[7])) <= 5.0 for row in rows["nodules.csv"])
        mask = SimpleITK.ReadImage(str(tmp_path / f"masks/case-{index:04d}.nii.gz"))
        areas = SimpleITK.GetArrayFromImage(mask).sum(axis=(1, 2)) * mask.GetSpacing()[0] ** 2
        for row in rows["truth.csv"]:
            if row[5]:
                told.setdefault(str(row[6]), []).append(2.0 * (areas[int(str(row[1]))] / np.pi) ** 0.5)
    assert max(told["medium"]) < 20.0 <= min(told["large"])
