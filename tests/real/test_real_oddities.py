"""Real files that were once read wrongly, each against an independent reader."""

from __future__ import annotations

import os
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nibabel calls its reader experimental
    from nibabel.nicom import dicomwrappers

from medgen.artifacts.sets import open_set
from medgen.imaging.reading.archive import enumerate_sources
from medgen.imaging.reading.formats import read, scan
from medgen.imaging.reading.series import SliceStack, build_stacks, normal

Run = Callable[..., subprocess.CompletedProcess[bytes]]

pytestmark = pytest.mark.skipif(
    not os.environ.get("MEDGEN_REAL_DATA"), reason="MEDGEN_REAL_DATA does not name a folder of real images"
)


@pytest.fixture
def wrong_before() -> Path:
    return Path(os.environ["MEDGEN_REAL_DATA"]) / "wrong_before"


def load(path: Path) -> list[tuple[SliceStack, np.ndarray]]:
    """Each stack with its values (D, H, W)."""
    entries = enumerate_sources([str(path)]).entries
    stacks, _ = build_stacks(facts for entry in entries for facts in scan(entry, ""))
    found = []
    for stack in stacks:
        hu = stack.first.kind == "hu"
        slices = [read(item.entry, item.format, [item.frame], hu=hu)[0, ..., 0] for item in stack.slices]
        found.append((stack, np.stack(slices)))
    return found


def test_mosaics_are_the_volumes_that_nibabel_unfolds(wrong_before: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(wrong_before / "siemens_mosaic.zip") as archive:
        archive.extractall(tmp_path)
    loaded = load(wrong_before / "siemens_mosaic.zip")
    assert len(loaded) == 6
    for stack, values in loaded:
        file = tmp_path / stack.first.entry.member
        theirs = dicomwrappers.MosaicWrapper(pydicom.dcmread(file))
        data = theirs.get_data()
        assert values.shape == (36, 64, 64)
        for z, y, x in ((0, 0, 0), (35, 0, 63), (17, 40, 21), (5, 63, 2)):
            first = stack.first
            place = np.array(stack.origin) + np.array(normal(first)) * stack.offsets[z]
            place = place + np.array(first.down) * y * stack.spacing[1] + np.array(first.across) * x * stack.spacing[2]
            i, j, k = np.rint(np.linalg.inv(theirs.affine) @ (*place, 1))[:3].astype(int)
            assert np.abs((theirs.affine @ (i, j, k, 1))[:3] - place).max() < 1e-3
            assert data[i, j, k] == values[z, y, x]
        assert sorted(values.ravel()) == sorted(data.ravel())


def test_a_mask_whose_padding_is_zero_keeps_its_background(wrong_before: Path) -> None:
    path = wrong_before / "seg_padding_value_0.dcm"
    ((_, values),) = load(path)
    theirs = pydicom.dcmread(path).pixel_array
    assert sorted(np.unique(values)) == sorted(np.unique(theirs)) == [0, 255]
    assert values.sum() == theirs.astype(np.int64).sum()


def test_an_empty_modality_table_does_not_stop_decoding(wrong_before: Path) -> None:
    path = wrong_before / "rle_empty_modality_lut.dcm"
    ((_, values),) = load(path)
    assert np.array_equal(values[0], sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0])


def test_jpeg_of_12_bits_is_decoded_as_by_simpleitk(wrong_before: Path) -> None:
    path = wrong_before.parent / "odd_dicoms" / "JPEG-lossy.dcm"
    ((_, values),) = load(path)
    assert np.array_equal(values, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def test_a_header_with_an_extension_is_read_as_by_nibabel(wrong_before: Path) -> None:
    path = wrong_before / "nifti_with_extension.nii.gz"
    theirs = np.asanyarray(nibabel.load(path).dataobj)
    assert sum(values.sum() for _, values in load(path)) == pytest.approx(theirs.sum(), rel=1e-6)


def test_what_lies_beside_a_ct_does_not_change_it(wrong_before: Path, medgen: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    names = ("cifti.dconn.nii", "rtstruct.dcm", "seg_liver.dcm", "seg_padding_value_0.dcm")
    for path in (wrong_before / name for name in names):
        (folder / path.name).symlink_to(path)
    (folder / "ct.zip").symlink_to(wrong_before.parent / "ct" / "lidc_idri_0001.zip")
    result = medgen("preprocess", folder, "-o", tmp_path / "a.h5")
    assert result.returncode == 0, result.stderr
    assert b"skipped: CIFTI (1), RT Structure Set (1), Segmentation (2)" in result.stderr
    with open_set(tmp_path / "a.h5") as reader:
        assert reader.header.intensity
        assert reader.header.intensity.unit == "HU"
        (case,) = reader
    assert case["image"].shape == (48, 1, 512, 512)
    result = medgen("preprocess", wrong_before / "cifti.dconn.nii", "-o", tmp_path / "b.h5")
    assert (result.returncode, b"a CIFTI file" in result.stderr) == (65, True)
