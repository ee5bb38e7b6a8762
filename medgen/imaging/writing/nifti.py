"""NIfTI-1 volumes (`.nii.gz`), byte for byte the same for the same voxels."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.synthetic import describe
from medgen.imaging.writing.placement import UNPLACED, check_even

LABELS = 1002
"""NIFTI_INTENT_LABEL: the voxels are numbers of classes."""
VECTOR = 1007
"""NIFTI_INTENT_VECTOR: the fifth axis holds the channels of a voxel; the fourth one would be time."""


def affine_of(
    spacing: tuple[float, float, float], origin: Sequence[float], direction: Sequence[float]
) -> npt.NDArray[np.float64]:
    """(4, 4) voxel index (x, y, z) -> mm in NIfTI's RAS axes, from LPS geometry in the order z, y, x of `Case`."""
    axes = np.asarray(direction, np.float64).reshape(3, 3)  # rows: z, y, x axis
    affine = np.eye(4)
    for column, axis in enumerate((2, 1, 0)):
        affine[:3, column] = axes[axis] * spacing[axis]
    affine[:3, 3] = origin
    affine[:2] *= -1.0  # LPS -> RAS
    return affine


def write_case(folder: Path, name: str, case: Case, header: SetHeader) -> list[str]:
    """Write `name.nii.gz`, and `name_mask.nii.gz` if the case has masks; returns the volume's name once per slice.

    DataError if the slices are unevenly spaced, which an affine matrix cannot express.
    """
    check_even(case)
    intensity = header.intensity or Intensity()
    affine = affine_of(case.spacing, case.origin, case.direction)
    placed = UNPLACED not in case.flaws
    file = f"{name}.nii.gz"
    scale, offset, text = intensity.scale, intensity.offset, describe(case.synthetic)
    voxels = _volume(case["image"])
    write_nifti(
        folder / file,
        voxels,
        affine,
        scale=scale,
        offset=offset,
        unit=intensity.unit,
        placed=placed,
        description=text,
    )
    if "mask" in case.arrays:
        write_nifti(folder / f"{name}_mask.nii.gz", _volume(case["mask"]), affine, placed=placed, labels=True)
    return [file] * len(case)


def _volume(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(D, C, H, W) -> (D, H, W), or (D, H, W, C) of several channels."""
    return array[:, 0] if array.shape[1] == 1 else array.transpose(0, 2, 3, 1)


def write_nifti(
    path: Path,
    voxels: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    unit: str = "",
    placed: bool = True,
    description: str = "",
    labels: bool = False,
) -> None:
    """Write `voxels` (D, H, W) or (D, H, W, C) as they are stored; physical = stored * scale + offset in `unit`.

    The unit (ASCII, at most 15 characters) becomes the name of the intent: what the voxels mean. If the volume is not
    `placed`, `affine` gives only the size of a voxel. `description` (ASCII, at most 79 characters) goes into the
    header, as does whether the voxels are `labels`.
    """
    import nibabel

    content = voxels.T if voxels.ndim == 3 else voxels.transpose(2, 1, 0, 3)[:, :, :, None]
    header: Any = cast(Any, nibabel).Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(content.shape)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code=int(placed))
    header.set_sform(affine, code=int(placed))
    header.set_slope_inter(scale, offset)
    header["intent_name"] = unit.encode("ascii")
    header["intent_code"] = LABELS if labels else 0 if voxels.ndim == 3 else VECTOR
    header["descrip"] = description.encode("ascii")
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as file:
        file.write(header.binaryblock + b"\0" * 4)
        file.write(content.tobytes(order="F"))
