"""NIfTI volumes (.nii, .nii.gz), single file, version 1 and 2; RAS coordinates become LPS."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Sequence
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from medgen.artifacts.synthetic import told_by
from medgen.errors import DataError
from medgen.imaging.reading.archive import MAX_FILE_BYTES, Entry
from medgen.imaging.reading.faults import NoPicture
from medgen.imaging.reading.series import SAME_AXES
from medgen.imaging.reading.slices import BYTES, Kind, SliceFacts

_HEADER_BYTES = 540  # of version 2, the longer one
_CIFTI = range(3000, 3100)  # intents of CIFTI-2, section 3 of its specification
_LABELS = 1002  # NIFTI_INTENT_LABEL
_VECTOR = 1007  # NIFTI_INTENT_VECTOR
_VECTORS = (1006, _VECTOR)  # and NIFTI_INTENT_DISPVECT
_GZIP_RATIO = 1032  # the most that deflated data can grow
_MM = {"meter": 1000.0, "micron": 0.001}
_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT; higher codes lead to other images or to a template
_SAME_SIZE = 0.01  # voxels that differ by a smaller share are of one size
_LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def scan_nifti(entry: Entry, modality: str) -> list[SliceFacts]:
    """The slices of a volume, from its header; slices lie along the third axis, as they were acquired.

    Rows and columns run as in DICOM (to the patient's left, back or feet), which may need a flip, never resampling.
    Each index of a fourth axis becomes a separate stack; a vector of three numbers in each voxel is a colour.
    `modality` is assumed if the header names no unit; a volume in HU is CT, whatever `modality` says.
    """
    header = _header(entry)
    intent = int(header["intent_code"])
    if intent in _CIFTI:
        raise NoPicture(f"{entry.name}: a CIFTI file, which holds no volume but values of brain surfaces", "CIFTI")
    if intent in _VECTORS and header.get_data_dtype().kind == "f":
        raise NoPicture(f"{entry.name}: holds a vector in each voxel, such as a shift, and no image", "vector fields")
    shape = [int(length) for length in header.get_data_shape()]
    if len(shape) == 2:
        shape.append(1)
    if len(shape) < 3 or min(shape) < 1 or shape[:2] == [1, 1] or header.get_data_dtype().kind not in "iuf":
        dtype = header.get_data_dtype()
        raise DataError(f"{entry.name}: not a volume of plain numbers (shape {tuple(shape)}, type {dtype})")
    size = math.prod(shape) * header.get_data_dtype().itemsize
    if size > entry.size * (_GZIP_RATIO if entry.suffix == ".nii.gz" else 1):
        raise DataError(f"{entry.name}: is cut short: its header says {size} bytes of voxels")
    matrix, flips = _oriented(header, shape)
    columns, rows, slices = shape[:3]
    colour = _is_colour(header)
    volumes = 1 if colour else math.prod(shape[3:])
    if not np.isfinite(matrix).all():
        raise DataError(f"{entry.name}: its affine matrix holds numbers that are not finite; repair the header")
    if told := _contradiction(header):
        raise DataError(f"{entry.name}: its sform and qform {told}; set the code of the wrong one to 0")
    steps = np.linalg.norm(matrix[:3, :3], axis=0)
    if (steps < 1e-6).any():
        raise DataError(f"{entry.name}: its affine matrix has a zero column; repair the header")
    across, down = (tuple(float(v) for v in matrix[:3, axis] / steps[axis]) for axis in (0, 1))
    if abs(np.dot(across, down)) > SAME_AXES:
        raise DataError(
            f"{entry.name}: its affine matrix shears rows against columns; resample it to right angles first"
        )
    sample = entry.sample()
    synthetic = told_by(bytes(header["descrip"]).decode("ascii", "replace"))
    unit = bytes(header["intent_name"]).rstrip(b"\0").decode("ascii", "replace")
    modality = "CT" if unit == "HU" or modality.upper() == "CT" else modality
    kind: Kind = "hu" if modality == "CT" else "byte" if unit == BYTES else "other"
    facts = []
    for volume in range(volumes):
        for index in range(slices):
            position = matrix @ np.array([0, 0, index, 1.0])
            facts.append(
                SliceFacts(
                    entry=entry,
                    frame=volume * slices + (slices - 1 - index if flips[2] else index),
                    format="nifti",
                    rows=rows,
                    columns=columns,
                    colour=colour,
                    kind=kind,
                    modality=modality,
                    holds="label map" if intent == _LABELS else "",
                    position=(float(position[0]), float(position[1]), float(position[2])),
                    across=(across[0], across[1], across[2]),
                    down=(down[0], down[1], down[2]),
                    spacing=(float(steps[1]), float(steps[0])),
                    step=float(steps[2]),
                    phase=(str(volume),) if volumes > 1 else (),
                    synthetic=synthetic,
                    sample=sample,
                )
            )
    return facts


def read_nifti(entry: Entry, frames: Sequence[int]) -> npt.NDArray[np.float32]:
    """The `frames` (F, H, W, C), scaled as the header says."""
    content = _content(entry)
    kind: Any = nibabel.Nifti2Image if _is_version_2(content) else nibabel.Nifti1Image
    image = kind.from_bytes(content)
    shape = [*image.shape, 1][:3] if len(image.shape) == 2 else list(image.shape)
    _, flips = _oriented(image.header, shape)
    values = np.asanyarray(image.dataobj, dtype=np.float32).reshape(*shape[:3], -1, order="F")
    depth = shape[2]
    if _is_colour(image.header):
        planes = [values[:, :, frame].transpose(1, 0, 2) for frame in frames]  # (H, W, 3)
    else:
        planes = [values[:, :, frame % depth, frame // depth, None].transpose(1, 0, 2) for frame in frames]  # (H, W, 1)
    if flips[0]:
        planes = [plane[:, ::-1] for plane in planes]
    if flips[1]:
        planes = [plane[::-1] for plane in planes]
    return np.stack(planes)


def _is_colour(header: Any) -> bool:
    """Whether voxels are vectors of three numbers, as `export` writes colour."""
    return int(header["intent_code"]) == _VECTOR and tuple(header.get_data_shape()[3:]) == (1, 3)


def is_turned(entry: Entry) -> bool:
    """Whether slices come in another order, or rows or columns run in another direction, than they are stored."""
    header = _header(entry)
    return any(_oriented(header, [*header.get_data_shape(), 1])[1])


def _oriented(header: Any, shape: Sequence[int]) -> tuple[npt.NDArray[np.float64], tuple[bool, bool, bool]]:
    """Matrix (4, 4) from flipped voxel indices to LPS mm, and which axes are flipped."""
    matrix = _LPS_OF_RAS @ _affine(header)
    matrix[:3] *= _MM.get(header.get_xyzt_units()[0], 1.0)
    flips = []
    for axis in range(2):
        column = matrix[:3, axis]
        main = int(np.argmax(np.abs(column)))
        flips.append(bool(column[main] < 0) != (main == 2))  # left and back are positive in LPS, feet negative
    for axis, flip in enumerate(flips):
        if flip:
            matrix = _flip(matrix, axis, shape[axis])
    flips.append(bool(np.cross(matrix[:3, 0], matrix[:3, 1]) @ matrix[:3, 2] < 0))
    if flips[2]:
        matrix = _flip(matrix, 2, shape[2])
    return matrix, (flips[0], flips[1], flips[2])


def _affine(header: Any) -> npt.NDArray[np.float64]:
    """Matrix (4, 4) from voxel indices to RAS. Where neither form is set, only sizes are known: rows stay as stored.

    Analyze 7.5 attached no orientation to its axes, nor does NIfTI then (nifti1.h, method 1). The sform is preferred,
    but not if it stretches the scanner's voxels to those of a template: then they are no longer the patient's mm.
    """
    if header["sform_code"] > _SCANNER and header["qform_code"] == _SCANNER and _sizes_apart(header):
        return np.asarray(header.get_qform(), dtype=np.float64)
    if header["qform_code"] > 0 or header["sform_code"] > 0:
        return np.asarray(header.get_best_affine(), dtype=np.float64)
    sizes = [*map(float, header.get_zooms()[:3]), 1.0, 1.0][:3]
    return _LPS_OF_RAS @ np.diag([*sizes, 1.0])


def _contradiction(header: Any) -> str:
    """How the two forms of a header contradict each other; "" if both may be right, as after a registration."""
    if not (header["qform_code"] > 0 and header["sform_code"] > 0):
        return ""
    form = np.asarray(header.get_sform(), dtype=np.float64)[:3, :3]
    if (np.linalg.det(form) < 0) != (header["pixdim"][0] < 0):
        return "disagree about which side is left"
    products = form.T @ form
    sheared = bool((np.abs(products - np.diag(np.diag(products))) > 1e-3 * products.max()).any())  # a qform cannot be
    told = "" if sheared or header["sform_code"] != header["qform_code"] else _sizes_apart(header)
    return f"state voxels of {told}" if told else ""


def _sizes_apart(header: Any) -> str:
    """The sizes of voxels by the sform and by the qform, where they differ."""
    ours = np.linalg.norm(np.asarray(header.get_sform(), dtype=np.float64)[:3, :3], axis=0)
    theirs = np.abs(header["pixdim"][1:4])
    counted = np.array([*header.get_data_shape(), 1, 1][:3]) > 1
    if np.allclose(ours[counted], theirs[counted], rtol=_SAME_SIZE):
        return ""
    return " and of ".join(" x ".join(f"{size:.4g}" for size in form) for form in (ours, theirs))


def _flip(matrix: npt.NDArray[np.float64], axis: int, length: int) -> npt.NDArray[np.float64]:
    flipped = matrix.copy()
    flipped[:3, 3] += matrix[:3, axis] * (length - 1)
    flipped[:3, axis] *= -1
    return flipped


def _header(entry: Entry) -> Any:
    beginning = entry.head(_HEADER_BYTES * 8)
    if entry.suffix == ".nii.gz":
        beginning = zlib.decompressobj(31).decompress(beginning, _HEADER_BYTES)
    kind: Any = nibabel.Nifti2Header if _is_version_2(beginning) else nibabel.Nifti1Header
    return kind(beginning[: kind.template_dtype.itemsize])  # extensions follow, which tell nothing of the picture


def _content(entry: Entry) -> bytes:
    content = entry.read()
    if entry.suffix != ".nii.gz":
        return content
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        inflated = file.read(MAX_FILE_BYTES + 1)
    if len(inflated) > MAX_FILE_BYTES:
        raise DataError(f"{entry.name}: inflates to more than {MAX_FILE_BYTES >> 30} GiB; refused")
    return inflated


def _is_version_2(content: bytes) -> bool:
    return content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
