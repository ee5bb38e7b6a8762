"""Mended stacks show each voxel what lies in its place: closed forms for tilt, gaps, shear, masks and points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from medgen.artifacts.schema import Case, SetHeader
from medgen.artifacts.sets import open_set
from medgen.errors import DataError, UsageError
from medgen.imaging.cases.options import PreprocessOptions
from medgen.imaging.cases.planning import SourceInputs
from medgen.imaging.cases.preprocessing import preprocess
from medgen.reporting import Silent

WriteSlice = Callable[..., Path]
GRADIENT = np.array([3.0, -5.0, 7.0])
PIXEL = 0.5
DOWN, ACROSS = np.array([0.0, 0.96, -0.28]), np.array([1.0, 0.0, 0.0])
NORMAL = np.cross(ACROSS, DOWN)


class Told(Silent):
    """Collects what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(f"warning: {message}")


def linear(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What linear interpolation keeps: a value that rises evenly, at (..., 3) mm."""
    values: npt.NDArray[np.float64] = points @ GRADIENT
    return values


def plane_of(origin: npt.NDArray[np.float64], height: int = 24, width: int = 20) -> npt.NDArray[np.float64]:
    """(H, W, 3) places of a slice's pixels."""
    y, x = np.mgrid[:height, :width]
    return origin + PIXEL * (y[..., None] * DOWN + x[..., None] * ACROSS)


def write_series(write_slice: WriteSlice, folder: Path, origins: npt.NDArray[np.float64]) -> Path:
    for index, origin in enumerate(origins):
        write_slice(
            folder / f"{index:02d}.dcm",
            np.rint(10 * linear(plane_of(origin))).astype(np.int16),
            ImagePositionPatient=[f"{value:.8g}" for value in origin],
            ImageOrientationPatient=[*ACROSS, *DOWN],
            PixelSpacing=[PIXEL, PIXEL],
            RescaleSlope=0.1,
        )
    return folder


def run(source: Path, **options: object) -> tuple[SetHeader, Case, list[str]]:
    told = Told()
    out = source.parent / f"{source.name}.h5"
    settings = {"workers": 1, "mend": True, "window": "-2000,2000", **options}
    preprocess(SourceInputs((str(source),)), str(out), PreprocessOptions(**settings), told, force=True)  # type: ignore[arg-type]
    with open_set(out) as reader:
        (case,) = reader
        return reader.header, case, told.said


def voxels(case: Case) -> npt.NDArray[np.float64]:
    """(D, H, W, 3) places of an even case's voxels, mm."""
    depth, _, height, width = case["image"].shape
    z, y, x = np.mgrid[:depth, :height, :width]
    _, down, across = case.axes
    return case.slice_origins[z] + y[..., None] * case.spacing[1] * down + x[..., None] * case.spacing[2] * across


def check(case: Case, header: SetHeader, *, share: float) -> None:
    """Voxels hold the value of their place, or air; at least `share` of them hold the value.

    The rim of a slice, half a pixel beyond its outermost centres, repeats these.
    """
    assert header.intensity is not None
    values, expected = header.intensity.physical(case["image"])[:, 0], linear(voxels(case))
    known = values != -1000
    inner = ndimage.binary_erosion(known, np.ones((1, 3, 3)))
    assert np.abs(values - expected)[inner].max() < 0.75  # rounded twice
    assert np.abs(values - expected)[known].max() < 0.75 + 0.5 * PIXEL * np.abs(GRADIENT).max() * np.sqrt(2)
    assert known.mean() > share


TILT = 3.3 * NORMAL + 1.1 * DOWN - 0.4 * ACROSS


@pytest.mark.parametrize("thickness", [None, 1.65, 6.6])
def test_a_tilted_series_is_shifted_into_place(
    write_slice: WriteSlice, tmp_path: Path, thickness: float | None
) -> None:
    origins = np.array([-20.0, 10.0, 5.0]) + np.arange(6)[:, None] * TILT
    header, case, said = run(write_series(write_slice, tmp_path / "s", origins), thickness=thickness)
    assert (case.flaws, case.mended, case.origins, case.filled) == ("", "gantry tilt", (), ())
    assert any("gantry tilt mended by resampling" in line for line in said)
    assert case.spacing[0] == pytest.approx(thickness or 3.3, abs=1e-3)
    assert case["image"].shape[2:] == (24 + 11, 20 + 4)  # 5.5 mm down, 2 mm to the left
    # Beyond the outermost slices thin ones repeat these, and the corners of thick ones mix two of them.
    inner = case if thickness is None else cut(case, 1)
    check(inner, header, share=0.4)


def cut(case: Case, rim: int) -> Case:
    from dataclasses import replace

    origin = case.slice_origins[rim]
    return replace(case, arrays={"image": case["image"][rim:-rim]}, origin=tuple(origin.tolist()))


def test_uneven_gaps_become_even_and_a_missing_slice_is_marked(write_slice: WriteSlice, tmp_path: Path) -> None:
    heights = 2.0 * np.array([0, 1, 2, 4, 5, 6, 7.25, 8, 9])
    origins = np.array([-2.0, 1.0, 5.0]) + heights[:, None] * NORMAL
    header, case, said = run(write_series(write_slice, tmp_path / "s", origins))
    assert case["image"].shape == (10, 1, 24, 20)
    assert case.filled == tuple(index == 3 for index in range(10))
    assert (case.flaws, case.mended, case.origins) == ("", "uneven gaps", ())
    assert any("uneven gaps mended by resampling; 1 slice is interpolated" in line for line in said)
    check(case, header, share=0.999)


def test_slices_in_their_place_are_kept_exactly(write_slice: WriteSlice, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index, z in enumerate((0, 1, 2, 4, 5)):
        write_slice(tmp_path / "s" / f"{index}.dcm", random.integers(-900, 900, (8, 8)).astype(np.int16), z=2.0 * z)
    _, plain, said = run(tmp_path / "s", mend=False)
    assert plain.flaws == "uneven gaps"
    assert any("(--mend resamples them)" in line for line in said)
    _, mended, _ = run(tmp_path / "s")
    np.testing.assert_array_equal(mended["image"][[0, 1, 2, 4, 5]], plain["image"])
    middle = plain["image"][2:4].astype(np.float64).mean(axis=0)
    assert np.abs(mended["image"][3] - middle).max() <= 0.5


def test_masks_and_points_follow(write_slice: WriteSlice, tmp_path: Path) -> None:
    """A bright disc stands upright in space, so that it wanders through the tilted slices; mended, it stands still."""
    origins = np.array([-5.0, 1.0, 5.0]) + np.arange(5)[:, None] * (2.0 * NORMAL + 1.0 * DOWN)
    axis = origins[0] + 12 * PIXEL * DOWN + 10 * PIXEL * ACROSS
    (tmp_path / "masks").mkdir()
    rows, discs = [], []
    for index, origin in enumerate(origins):
        away = plane_of(origin) - axis
        away -= (away @ NORMAL)[..., None] * NORMAL
        disc = np.linalg.norm(away, axis=-1) < 2.0
        write_slice(
            tmp_path / "s" / f"{index}.dcm",
            np.where(disc, 400, -500).astype(np.int16),
            ImagePositionPatient=origin.tolist(),
            ImageOrientationPatient=[*ACROSS, *DOWN],
            PixelSpacing=[PIXEL, PIXEL],
        )
        discs.append(disc)
        centre = np.argwhere(disc).mean(axis=0) + 0.5
        rows.append(f"s/{index}.dcm,{centre[1] / 20},{centre[0] / 24},0.2")
    affine = np.eye(4)
    affine[:3] = np.diag([-1, -1, 1]) @ np.column_stack(
        [PIXEL * ACROSS, PIXEL * DOWN, origins[1] - origins[0], origins[0]]
    )
    mask_volume = nibabel.Nifti1Image(np.array(discs).transpose(2, 1, 0).astype(np.uint8), affine)
    nibabel.save(mask_volume, tmp_path / "masks" / "s.nii.gz")  # type: ignore[attr-defined]
    (tmp_path / "l.csv").write_text("path,x,y,size\n" + "\n".join(rows))
    out = tmp_path / "o.h5"
    options = PreprocessOptions(workers=1, mend=True, vector_fields=("x", "y", "size"))
    inputs = SourceInputs((str(tmp_path / "s"),), tmp_path / "l.csv", (), str(tmp_path / "masks"))
    preprocess(inputs, str(out), options, Told())
    with open_set(out) as reader:
        (case,) = reader
    bright, mask = case["image"][:, 0] > -50, case["mask"][:, 0] > 0
    assert (bright == mask).mean() > 0.99
    height, width = mask.shape[1:]
    centres = np.array([np.argwhere(one).mean(axis=0) + 0.5 for one in mask])
    assert np.ptp(centres, axis=0).max() < 0.6  # pixels
    np.testing.assert_allclose(case["vector"][:, 0] * width, centres[:, 1], atol=0.5)
    np.testing.assert_allclose(case["vector"][:, 1] * height, centres[:, 0], atol=0.5)


def test_what_cannot_be_mended_is_kept_and_said(write_slice: WriteSlice, tmp_path: Path) -> None:
    origins = 2.0 * np.array([0, 1, 2, 5, 6])[:, None] * NORMAL
    _, case, said = run(write_series(write_slice, tmp_path / "s", origins))
    assert case.flaws == "uneven gaps"
    assert case.mended == ""
    np.testing.assert_allclose(case.slice_origins, origins, atol=1e-6)
    assert any("2 slices are missing behind" in line for line in said)
    with pytest.raises(DataError, match=r"2 slices are missing .*, or leave --thickness out"):
        run(tmp_path / "s", thickness=1.0)
    with pytest.raises(DataError, match="give --mend, or leave --thickness out"):
        run(write_series(write_slice, tmp_path / "t", origins[:, ::-1][[0, 1, 2]] * 1.5), thickness=1.0, mend=False)


def test_single_slices_and_even_stacks_are_left_alone(write_slice: WriteSlice, tmp_path: Path) -> None:
    origins = np.arange(4)[:, None] * 2.0 * NORMAL
    for name, places in (("one", origins[:1]), ("even", origins)):
        source = write_series(write_slice, tmp_path / name, places)
        _, with_mend, said = run(source)
        _, without, _ = run(source, mend=False)
        np.testing.assert_array_equal(with_mend["image"], without["image"])
        assert with_mend.facts() == without.facts()
        assert not any("mended" in line for line in said)
    with pytest.raises(UsageError, match="--mend needs all"):
        run(tmp_path / "even", healthy_slices=1)


def sheared(path: Path, shear: npt.NDArray[np.float64]) -> Path:
    """A volume of `linear` whose third axis is not the normal of its slices."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag([0.5, 0.5, 2.0]) @ shear
    index = np.stack(np.mgrid[:10, :12, :6], axis=-1)
    places = index @ affine[:3, :3].T * [-1, -1, 1]  # RAS -> LPS
    image = nibabel.Nifti1Image(linear(places).astype(np.float32), affine)
    nibabel.save(image, path)  # type: ignore[attr-defined]
    return path


def test_a_sheared_nifti_is_mended_and_one_sheared_in_plane_refused(tmp_path: Path) -> None:
    tilt = np.array([[1, 0, 0], [0, 1, 1.5], [0, 0, 1]])
    header, case, _ = run(sheared(tmp_path / "tilt.nii.gz", tilt), modality="CT")
    assert case.mended == "gantry tilt"
    assert header.intensity is not None
    check(case, header, share=0.4)
    plane = np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(DataError, match=r"plane.nii.gz: its affine matrix shears rows against columns"):
        run(sheared(tmp_path / "plane.nii.gz", plane), modality="CT")
