"""Siemens mosaics are unfolded, and every slice lies where an independent reader puts it."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nibabel calls its reader experimental
    from nibabel.nicom import dicomwrappers

from medgen.errors import DataError
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.formats import read, scan
from medgen.imaging.reading.series import SliceStack, build_stacks, normal

WriteSlice = Callable[..., Path]
ACROSS, DOWN = (0.6, 0.8, 0.0), (0.0, 0.0, -1.0)
NORMAL = np.cross(ACROSS, DOWN)


def private_header(slices: int, towards: np.ndarray) -> bytes:
    """Siemens' CSA header in its second version, with the two facts that matter."""
    tags = {
        "NumberOfImagesInMosaic": (b"US", [str(slices)]),
        "SliceNormalVector": (b"FD", [f"{value:.8f}" for value in towards]),
    }
    content = b"SV10\4\3\2\1" + struct.pack("<II", len(tags), 77)
    for name, (kind, values) in tags.items():
        content += struct.pack("<64si4siii", name.encode(), len(values), kind, 0, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            content += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4)
    return content


def write_mosaic(write_slice: WriteSlice, path: Path, voxels: np.ndarray, towards: np.ndarray, **tags: object) -> Path:
    """A mosaic of `voxels` (D, H, W) whose slices follow each other along `towards`."""
    depth, rows, columns = voxels.shape
    side = math.ceil(math.sqrt(depth))
    picture = np.zeros((side * rows, side * columns), voxels.dtype)
    for index in range(depth):
        y, x = index // side * rows, index % side * columns
        picture[y : y + rows, x : x + columns] = voxels[index]
    facts = {
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"],
        "Manufacturer": "SIEMENS",
        "ImageOrientationPatient": [*ACROSS, *DOWN],
        "PixelSpacing": [2.0, 1.5],
        "SpacingBetweenSlices": 3.3,
        "SliceThickness": 3.0,
        **tags,
    }
    write_slice(path, picture, **facts)
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(0x29, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", private_header(depth, towards))
    dataset.save_as(path, overwrite=True)
    return path


def entry_of(path: Path) -> Entry:
    return Entry(str(path), "", path.stat().st_size, 0, path.name)


def places(stack: SliceStack, values: np.ndarray) -> dict[tuple[float, ...], float]:
    """Place of each voxel (LPS mm, rounded) -> its value."""
    first, (_, dy, dx) = stack.first, stack.spacing
    table = {}
    for z, y, x in np.ndindex(values.shape):
        place = np.array(stack.origin) + np.array(normal(first)) * stack.offsets[z]
        place = place + np.array(first.down) * y * dy + np.array(first.across) * x * dx
        table[tuple(np.round(place, 2) + 0.0)] = float(values[z, y, x])
    return table


@pytest.mark.parametrize("depth", [4, 5, 9])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_voxel_lies_where_nibabel_puts_it(write_slice: WriteSlice, tmp_path: Path, depth: int, sign: int) -> None:
    voxels = np.random.default_rng(0).integers(0, 4000, (depth, 5, 4)).astype(np.uint16)
    path = write_mosaic(write_slice, tmp_path / "m.dcm", voxels, sign * NORMAL)
    (stack,), _ = build_stacks(scan(entry_of(path), ""))
    values = read(entry_of(path), "dicom", [item.frame for item in stack.slices], hu=False)[..., 0]
    assert values.shape == voxels.shape
    assert stack.spacing == pytest.approx((3.3, 2.0, 1.5))
    assert not stack.flaws
    theirs = dicomwrappers.MosaicWrapper(pydicom.dcmread(path))
    table = {}
    data = theirs.get_data()
    for index in np.ndindex(data.shape):
        table[tuple(np.round((theirs.affine @ (*index, 1))[:3], 2) + 0.0)] = float(data[index])
    ours = places(stack, values)
    assert len(table) == voxels.size
    assert ours == table


def test_time_points_are_stacks(write_slice: WriteSlice, tmp_path: Path) -> None:
    facts = []
    for time in range(3):
        voxels = np.full((6, 4, 4), time, np.uint16)
        tags = {"AcquisitionNumber": time, "SOPInstanceUID": f"1.2.9.{time}"}
        facts += scan(entry_of(write_mosaic(write_slice, tmp_path / f"{time}", voxels, NORMAL, **tags)), "")
    stacks, _ = build_stacks(facts)
    assert [len(stack.slices) for stack in stacks] == [6, 6, 6]
    assert len({stack.key for stack in stacks}) == 3


@pytest.mark.parametrize("lost", ["private header", "normal", "spacing", "position", "size"])
def test_what_cannot_be_placed_is_refused(write_slice: WriteSlice, tmp_path: Path, lost: str) -> None:
    towards = np.array(ACROSS) if lost == "normal" else NORMAL
    path = write_mosaic(write_slice, tmp_path / "m.dcm", np.zeros((5, 4, 4), np.uint16), towards)
    dataset = pydicom.dcmread(path)
    if lost == "private header":
        del dataset[0x291010]
    elif lost == "spacing":
        del dataset.SpacingBetweenSlices, dataset.SliceThickness
    elif lost == "position":
        del dataset.ImagePositionPatient
    elif lost == "size":
        dataset.Rows, dataset.Columns = 16, 9
    dataset.save_as(path, overwrite=True)
    with pytest.raises(DataError, match=r"m\.dcm: a Siemens mosaic whose slices cannot be told apart"):
        scan(entry_of(path), "")
