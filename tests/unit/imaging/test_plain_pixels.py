"""Pixels read by their place alone are those that the decoder gives; whatever is not quite plain is left to it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medgen.errors import DataError
from medgen.imaging.reading.archive import enumerate_sources
from medgen.imaging.reading.formats import read, scan

WriteSlice = Callable[..., Path]


def both(path: Path) -> tuple[bool, np.ndarray, np.ndarray]:
    """Whether the pixels are plain, and the values with and without making use of it."""
    (entry,) = enumerate_sources([str(path)]).entries
    (facts,) = scan(entry, "")
    hu = facts.kind == "hu"
    return (
        facts.plain is not None and facts.plain.read(entry) is not None,
        read(entry, "dicom", [0], hu=hu, plain=facts.plain),
        read(entry, "dicom", [0], hu=hu),
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("kind", [np.int16, np.uint16])
@pytest.mark.parametrize("bits", [16, 12, 9])
@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"RescaleIntercept": -1024, "PixelPaddingValue": 63536},
        {"RescaleIntercept": 32000},
        {"RescaleIntercept": -0.5},
        {"RescaleSlope": 0.75, "PixelPaddingValue": 3, "PixelPaddingRangeLimit": 40},
        {"RescaleSlope": None, "RescaleIntercept": None},
    ],
)
def test_plain_pixels_are_those_of_the_decoder(
    write_slice: WriteSlice, tmp_path: Path, syntax: str, modality: str, kind: type[np.integer], bits: int, tags: dict
) -> None:
    draw = np.random.default_rng(bits)
    pixels = draw.integers(0, 1 << 16, (5, 7)).astype(np.uint16).view(kind)  # anything in the unused bits
    pixels[0, :3] = [3, 40, 17]
    if kind == np.int16:
        pixels[1, 1] = -2000
        if "PixelPaddingValue" in tags:  # pydicom writes it by the type of the pixels
            tags = {**tags, "PixelPaddingValue": -2000 if tags["PixelPaddingValue"] == 63536 else 3}
    path = write_slice(tmp_path / "1.dcm", pixels, BitsStored=bits, HighBit=bits - 1, Modality=modality, **tags)
    if syntax != ExplicitVRLittleEndian:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        pydicom.dcmwrite(path, dataset, implicit_vr=True, little_endian=True)
    plain, ours, decoded = both(path)
    assert plain
    assert ours.shape == decoded.shape == (1, 5, 7, 1)
    assert np.array_equal(ours, decoded)


def test_a_member_of_a_zip(write_slice: WriteSlice, tmp_path: Path) -> None:
    pixels = np.arange(35, dtype=np.int16).reshape(5, 7)
    path = write_slice(tmp_path / "1.dcm", pixels, RescaleIntercept=-1024)
    archive = tmp_path / "one.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(path, "1.dcm")
    plain, ours, decoded = both(archive)
    assert plain
    assert np.array_equal(ours, decoded)
    assert np.array_equal(ours[0, :, :, 0], pixels - 1024)


def test_what_is_not_plain_is_left_to_the_decoder(write_slice: WriteSlice, tmp_path: Path) -> None:
    ramp = np.arange(24, dtype=np.int16).reshape(4, 6)
    inverted = write_slice(tmp_path / "inverted.dcm", ramp, PhotometricInterpretation="MONOCHROME1")
    byte = write_slice(tmp_path / "byte.dcm", ramp.astype(np.uint8))
    longer = write_slice(tmp_path / "longer.dcm", ramp.ravel()[:23].reshape(1, 23), Rows=2, Columns=11)
    big = write_slice(tmp_path / "big.dcm", ramp)
    dataset = pydicom.dcmread(big)
    dataset.PixelData = ramp.astype(">i2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(big, dataset, implicit_vr=False, little_endian=False)
    for path in (inverted, byte, longer, big):
        plain, ours, decoded = both(path)
        assert not plain, path.name
        assert np.array_equal(ours, decoded)


def test_a_file_that_became_shorter_is_told_by_the_decoder(write_slice: WriteSlice, tmp_path: Path) -> None:
    path = write_slice(tmp_path / "cut.dcm", np.arange(24, dtype=np.int16).reshape(4, 6))
    (entry,) = enumerate_sources([str(path)]).entries
    (facts,) = scan(entry, "")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"cut\.dcm: the pixels cannot be decoded"):
        read(entry, "dicom", [0], hu=True, plain=facts.plain)


def test_the_main_process_takes_the_records_without_pydicom() -> None:
    modules = "medgen.imaging.cases.preprocessing, medgen.imaging.reading.plain_pixels"
    code = f"import sys, {modules}; sys.exit('pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
