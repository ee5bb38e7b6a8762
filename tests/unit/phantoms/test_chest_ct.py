"""A whole case: anatomy in plausible HU, any thickness from one anatomy, truth that agrees with the pixels."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pydicom
import pytest
import SimpleITK

from medgen.errors import ConfigError
from medgen.phantoms.chest_anatomy import ChestAnatomy
from medgen.phantoms.chest_ct import FOLDERS, LABEL_FIELDS, Rows, write_case
from medgen.phantoms.ct_scanner import Scanner
from medgen.phantoms.options import ChestCTOptions
from medgen.phantoms.primitives import Grid

SMALL = ChestCTOptions(scout_fraction=0.0, size=96, slices=10, diameter=(15.0, 40.0), healthy_fraction=0.0)


def make(folder: Path, index: int = 0, options: ChestCTOptions = SMALL, seed: int = 0) -> Rows:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    return write_case(msgspec.structs.replace(options, seed=seed), index, folder)


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
    assert rows == {"labels.csv": [], "nodules.csv": []}
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


def test_one_anatomy_in_slices_of_any_thickness() -> None:
    """A thick slice is the mean of the thin ones inside it, but for how finely it is itself sampled."""
    rng = np.random.default_rng(2)
    anatomy = ChestAnatomy.draw(rng)
    grid = Grid(96, 3.6)
    quiet = Scanner(noise=0.0, blur=0.6, grain=0.6, streaks=0.0)
    thick, _ = quiet.slice(rng, anatomy, -10.0, 5.0, grid)
    thin = np.mean([quiet.slice(rng, anatomy, -12.0 + step, 1.0, grid)[0] for step in range(5)], axis=0)
    elsewhere, _ = quiet.slice(rng, anatomy, 0.0, 5.0, grid)
    assert np.abs(thick - thin).mean() < 4.0
    assert np.abs(thick - thin).mean() < 0.1 * np.abs(thick - elsewhere).mean()


def test_thin_and_thick_series_of_one_seed_show_one_chest(tmp_path: Path) -> None:
    common = {"size": 64, "nodules": (2, 2), "diameter": (10.0, 30.0), "healthy_fraction": 0.0}
    thick = make(tmp_path / "thick", 1, ChestCTOptions(slices=6, thickness=5.0, **common))  # type: ignore[arg-type]
    thin = make(tmp_path / "thin", 1, ChestCTOptions(slices=30, thickness=1.0, **common))  # type: ignore[arg-type]
    assert [row[2:8] for row in thick["nodules.csv"]] == [row[2:8] for row in thin["nodules.csv"]]
    images = [read_series(tmp_path / k / "dicom/case-0001.zip", tmp_path / k / "files") for k in ("thick", "thin")]
    coarse, fine = (np.clip(SimpleITK.GetArrayFromImage(image), -1000, 400).astype(np.float64) for image in images)
    assert images[0].GetSpacing()[2] == pytest.approx(5.0)
    assert images[1].GetSpacing()[2] == pytest.approx(1.0)
    merged = fine.reshape(6, 5, 64, 64).mean(axis=1)
    assert np.corrcoef(coarse.ravel(), merged.ravel())[0, 1] > 0.99


def test_people_differ() -> None:
    grid = Grid(48, 8.0)
    planes = [ChestAnatomy.draw(np.random.default_rng(seed)).plane(-20.0, grid)[0] for seed in range(4)]
    for first in range(4):
        for second in range(first):
            assert np.abs(planes[first] - planes[second]).mean() > 25.0


def test_noise_grows_with_dose_setting_and_thin_slices() -> None:
    anatomy = ChestAnatomy.draw(np.random.default_rng(0))
    grid = Grid(128, 2.8)
    deviations = []
    for noise, thickness in ((0.0, 5.0), (10.0, 5.0), (10.0, 1.0), (20.0, 1.0)):
        scanner = Scanner(noise=noise, blur=0.5, grain=0.6, streaks=0.0)
        pair = [scanner.slice(np.random.default_rng(k), anatomy, -10.0, thickness, grid)[0] for k in range(2)]
        deviations.append(float((pair[0] - pair[1]).std()))
    assert deviations[0] == 0.0
    assert deviations == sorted(deviations)
    assert deviations[3] == pytest.approx(2 * deviations[2], rel=0.05)


@pytest.mark.parametrize("bad", [{"nodules": (3, 1)}, {"diameter": (30.0, 6.0)}])
def test_ranges_upside_down_are_refused(bad: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match="smaller number first"):
        ChestCTOptions(**bad)  # type: ignore[arg-type]


def test_columns_of_labels_are_the_contract() -> None:
    assert ",".join(LABEL_FIELDS) == "case,slice,has_nodule,x,y,size,malignancy,texture"
    assert next(csv.reader([",".join(LABEL_FIELDS)])) == list(LABEL_FIELDS)
