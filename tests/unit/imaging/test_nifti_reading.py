"""NIfTI: voxels stay what they are, and each stays where its affine says."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from medgen.errors import DataError
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.faults import NoPicture
from medgen.imaging.reading.formats import read, scan
from medgen.imaging.reading.series import build_stacks, normal
from medgen.imaging.writing.nifti import write_nifti


def entry_of(path: Path) -> Entry:
    return Entry(str(path), "", path.stat().st_size, 0, path.name)


def rotation(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, -1, -1)])
@pytest.mark.parametrize("kind", ["axial", "oblique", "sagittal"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_voxel_lies_where_the_affine_puts_it(
    tmp_path: Path, signs: tuple[int, int, int], kind: str, suffix: str
) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.integers(-1000, 1000, (5, 4, 3)).astype(np.int16)
    axes = {"axial": np.eye(3), "oblique": rotation(20), "sagittal": np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])}[
        kind
    ]
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag(np.array(signs) * (0.7, 0.8, 3.0))
    affine[:3, 3] = (11, -22, 33)
    path = tmp_path / f"v{suffix}"
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)

    (stack,), _ = build_stacks(scan(entry_of(path), "MR"))
    values = read(entry_of(path), "nifti", [item.frame for item in stack.slices], hu=False)[..., 0]
    assert values.shape == (3, 4, 5)
    assert np.allclose(stack.spacing, (3.0, 0.8, 0.7), atol=1e-5)
    first = stack.first
    assert first.across
    assert first.down
    # independent: the world (RAS) place of each voxel and its value, as a table
    table = {}
    for index in np.ndindex(voxels.shape):
        place = affine @ (*index, 1)
        table[tuple(np.round(place[:3], 3) + 0.0)] = voxels[index]
    for z, y, x in np.ndindex(values.shape):
        lps = np.array(stack.origin) + np.array(normal(first)) * stack.offsets[z]
        lps = lps + np.array(first.down) * y * 0.8 + np.array(first.across) * x * 0.7
        ras = tuple(np.round(lps * (-1, -1, 1), 3) + 0.0)
        nearest = min(table, key=lambda key: float(np.abs(np.subtract(key, ras)).max()))
        assert np.abs(np.subtract(nearest, ras)).max() < 2e-3
        assert values[z, y, x] == table[nearest]


def test_rows_run_as_in_dicom(tmp_path: Path) -> None:
    path = tmp_path / "v.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)), path)
    first = scan(entry_of(path), "")[0]
    assert first.across == (1.0, 0.0, 0.0)  # to the left
    assert first.down == (0.0, 1.0, 0.0)  # to the back


def test_scaling_and_time_points(tmp_path: Path) -> None:
    voxels = np.arange(5 * 4 * 3 * 2, dtype=np.int16).reshape(5, 4, 3, 2)
    image = nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header.set_slope_inter(2.0, -1024.0)
    path = tmp_path / "v.nii.gz"
    nibabel.save(image, path)
    stored = np.asarray(nibabel.load(path).dataobj)
    stacks, _ = build_stacks(scan(entry_of(path), "CT"))
    assert [len(stack.slices) for stack in stacks] == [3, 3]
    assert stacks[0].first.kind == "hu"
    for time, stack in enumerate(stacks):
        values = read(entry_of(path), "nifti", [item.frame for item in stack.slices], hu=True)[..., 0]
        assert np.allclose(values, stored[:, :, :, time].T)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_extensions_of_the_header_are_passed_over(tmp_path: Path, suffix: str, kind: type) -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    image = kind(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]))
    noise = np.random.default_rng(0).bytes(9000)  # does not shrink, and is longer than what is read of a header
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, noise))
    path = tmp_path / f"v{suffix}"
    nibabel.save(image, path)
    facts = scan(entry_of(path), "")
    values = read(entry_of(path), "nifti", [item.frame for item in facts], hu=False)[..., 0]
    assert np.array_equal(values, voxels.transpose(2, 1, 0))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((50, 40, 3), np.int16), np.eye(4)), path)
    (tmp_path / "cut.nii.gz").write_bytes(path.read_bytes()[:-20])
    facts = scan(entry_of(tmp_path / "cut.nii.gz"), "")
    with pytest.raises(DataError, match=r"cut\.nii\.gz"):
        read(entry_of(tmp_path / "cut.nii.gz"), "nifti", [item.frame for item in facts], hu=False)
    (tmp_path / "no.nii").write_bytes(b"no" * 400)
    with pytest.raises(DataError, match=r"no\.nii"):
        scan(entry_of(tmp_path / "no.nii"), "")


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("mm", 1.0), ("micron", 1e3), ("unknown", 1.0)])
def test_lengths_are_in_the_unit_that_the_header_names(tmp_path: Path, unit: str, factor: float) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 5, 3), np.int16), np.diag([0.7 * factor, 0.8 * factor, 3 * factor, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "v.nii")
    (stack,), _ = build_stacks(scan(entry_of(tmp_path / "v.nii"), "CT"))
    assert np.allclose(stack.spacing, (3.0, 0.8, 0.7), rtol=1e-5)
    assert np.allclose(SimpleITK.ReadImage(str(tmp_path / "v.nii")).GetSpacing(), stack.spacing[::-1], rtol=1e-5)


@pytest.mark.parametrize(
    ("unit", "said", "kind", "modality"),
    [
        ("HU", "", "hu", "CT"),
        ("HU", "MR", "hu", "CT"),
        ("grey value", "fundus", "byte", "fundus"),
        ("relative", "MR", "other", "MR"),
        ("", "CT", "hu", "CT"),
        ("", "", "other", ""),
    ],
)
def test_the_unit_of_a_volume_tells_what_it_shows(
    tmp_path: Path, unit: str, said: str, kind: str, modality: str
) -> None:
    write_nifti(tmp_path / "v.nii.gz", np.zeros((3, 4, 5), np.int16), np.eye(4), unit=unit)
    facts = scan(entry_of(tmp_path / "v.nii.gz"), said)[0]
    assert (facts.kind, facts.modality) == (kind, modality)


def test_label_maps_and_cifti_are_no_pictures(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((5, 4, 3), np.uint8), np.eye(4))
    image.header.set_intent("label")
    nibabel.save(image, tmp_path / "l.nii.gz")
    assert {facts.holds for facts in scan(entry_of(tmp_path / "l.nii.gz"), "CT")} == {"label map"}
    matrix = nibabel.Nifti2Image(np.zeros((1, 1, 1, 1, 10, 10), np.float32), None)
    matrix.header["intent_code"] = 3001  # dense connectivity
    nibabel.save(matrix, tmp_path / "c.dconn.nii")
    with pytest.raises(NoPicture, match=r"c\.dconn\.nii: a CIFTI file"):
        scan(entry_of(tmp_path / "c.dconn.nii"), "")
    matrix.header["intent_code"] = 0  # the same numbers, and nothing that says so
    nibabel.save(matrix, tmp_path / "d.nii")
    with pytest.raises(DataError, match=r"d\.nii: not a volume"):
        scan(entry_of(tmp_path / "d.nii"), "")


@pytest.mark.parametrize(("hu", "dark"), [(True, -1000.0), (False, 7.0)])
def test_what_is_no_number_is_dark(tmp_path: Path, hu: bool, dark: float) -> None:
    voxels = np.arange(7, 67, dtype=np.float32).reshape(5, 4, 3)
    voxels[2, 1, :] = np.nan, np.inf, -np.inf
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "v.nii")
    values = read(entry_of(tmp_path / "v.nii"), "nifti", range(3), hu=hu)[..., 0]
    assert np.array_equal(values, np.where(np.isfinite(voxels), voxels, dark).transpose(2, 1, 0))


def test_places_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)), tmp_path / "v.nii")
    content = bytearray((tmp_path / "v.nii").read_bytes())
    content[292:296] = np.float32(np.nan).tobytes()  # the last of the first row of the sform
    (tmp_path / "v.nii").write_bytes(content)
    with pytest.raises(DataError, match=r"v\.nii: its affine matrix holds numbers that are not finite"):
        scan(entry_of(tmp_path / "v.nii"), "")


def test_rows_stay_as_stored_where_nothing_says_how_they_run(tmp_path: Path) -> None:
    """As SimpleITK reads them, and as frames without positions are written."""
    voxels = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    image = nibabel.Nifti1Image(voxels, None)
    image.header.set_zooms((0.7, 0.8, 3.0))
    nibabel.save(image, tmp_path / "v.nii")
    (stack,), _ = build_stacks(scan(entry_of(tmp_path / "v.nii"), ""))
    values = read(entry_of(tmp_path / "v.nii"), "nifti", [item.frame for item in stack.slices], hu=False)[..., 0]
    assert np.array_equal(values, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "v.nii"))))
    assert np.allclose(stack.spacing, (3.0, 0.8, 0.7))


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (np.diag([-1.2, -1.0, 2.0, 1.0]), "its sform and qform state voxels of 1.2 x 1 x 2 and of 1 x 1 x 2; set"),
        (np.diag([1.0, -1.0, 2.0, 1.0]), "its sform and qform disagree about which side is left; set"),
        (np.array([[0, -1.0, 0, 7], [1.0, 0, 0, 8], [0, 0, 2, 9], [0, 0, 0, 1]]), ""),  # turned by a registration
        (np.array([[-1.0, 0, 0, 7], [0, -1.0, 0.7, 8], [0, 0, 2, 9], [0, 0, 0, 1]]), ""),  # of a tilted gantry
    ],
)
def test_forms_that_contradict_each_other_are_refused(tmp_path: Path, form: np.ndarray, told: str) -> None:
    image = nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), None)
    image.set_qform(np.diag([-1.0, -1.0, 2.0, 1.0]), 1)
    image.set_sform(form, 1)
    nibabel.save(image, tmp_path / "v.nii")
    if told:
        with pytest.raises(DataError, match=rf"v\.nii: {told}"):
            scan(entry_of(tmp_path / "v.nii"), "")
    else:
        assert len(scan(entry_of(tmp_path / "v.nii"), "")) == 3


def test_voxels_keep_the_size_of_the_scanner_where_the_sform_stretches_them_to_a_template(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), None)
    image.set_qform(np.diag([-1.0, -1.0, 2.0, 1.0]), 1)
    image.set_sform(np.diag([-1.3, -1.2, 2.5, 1.0]), 4)
    nibabel.save(image, tmp_path / "v.nii")
    (stack,), _ = build_stacks(scan(entry_of(tmp_path / "v.nii"), ""))
    assert np.allclose(stack.spacing, (2.0, 1.0, 1.0))


@pytest.mark.parametrize("intent", [1006, 1007])
def test_a_field_of_vectors_is_no_image(tmp_path: Path, intent: int) -> None:
    """Registration writes it beside the images, with three numbers for each voxel."""
    image = nibabel.Nifti1Image(np.zeros((4, 4, 2, 1, 3), np.float32), np.eye(4))
    image.header["intent_code"] = intent
    nibabel.save(image, tmp_path / "warp.nii.gz")
    with pytest.raises(NoPicture, match="holds a vector in each voxel"):
        scan(entry_of(tmp_path / "warp.nii.gz"), "MR")
