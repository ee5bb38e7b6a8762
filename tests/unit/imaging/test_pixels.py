"""Pixels arrive in physical units, whatever way a scanner wrote them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
)

from medgen.errors import DataError
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.faults import NoPicture
from medgen.imaging.reading.formats import read, scan
from medgen.imaging.reading.series import build_stacks
from medgen.imaging.reading.slices import SliceFacts

WriteSlice = Callable[..., Path]
RAMP = np.arange(24, dtype=np.int16).reshape(4, 6)


def entry_of(path: Path) -> Entry:
    return Entry(str(path), "", path.stat().st_size, 0, path.name)


def load(path: Path) -> tuple[list[SliceFacts], np.ndarray]:
    """Facts and values (F, H, W, C)."""
    facts = scan(entry_of(path), "")
    return facts, read(entry_of(path), facts[0].format, [item.frame for item in facts], hu=facts[0].kind == "hu")


def grey(path: Path) -> np.ndarray:
    return load(path)[1][0, :, :, 0]


def test_slope_and_intercept_are_those_of_the_slice(write_slice: WriteSlice, tmp_path: Path) -> None:
    one = write_slice(tmp_path / "1", RAMP, RescaleSlope=2, RescaleIntercept=-1024)
    two = write_slice(tmp_path / "2", RAMP, RescaleSlope=0.5, RescaleIntercept=-1000)
    assert np.array_equal(grey(one), RAMP * 2 - 1024)
    assert np.array_equal(grey(two), RAMP * 0.5 - 1000)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int8, np.uint8, np.int32, np.uint32])
def test_every_integer_type(write_slice: WriteSlice, tmp_path: Path, kind: type[np.integer]) -> None:
    limits = np.iinfo(kind)
    pixels = np.array([[limits.min, limits.max, 0, 1], [5, 100, 7, 127]], kind)
    path = write_slice(tmp_path / "1", pixels, Modality="MR")
    assert np.array_equal(grey(path), pixels.astype(np.float32))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_transfer_syntaxes(write_slice: WriteSlice, tmp_path: Path, syntax: str) -> None:
    path = write_slice(tmp_path / "1", RAMP)
    dataset = pydicom.dcmread(path)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = RAMP.astype(">i2").tobytes()
        dataset.decode()
    dataset.file_meta.TransferSyntaxUID = syntax
    little = syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(path, dataset, little_endian=little, implicit_vr=syntax == ImplicitVRLittleEndian, overwrite=True)
    assert np.array_equal(grey(path), RAMP)


@pytest.mark.parametrize(
    ("syntax", "plugin"),
    [
        ("1.2.840.10008.1.2.5", "pylibjpeg"),
        ("1.2.840.10008.1.2.4.80", "pyjpegls"),
        ("1.2.840.10008.1.2.4.90", "pylibjpeg"),
    ],
)
def test_compressed_transfer_syntaxes_are_exact(
    write_slice: WriteSlice, tmp_path: Path, syntax: str, plugin: str
) -> None:
    pixels = np.random.default_rng(0).integers(-1000, 2000, (64, 48)).astype(np.int16)
    path = write_slice(tmp_path / "1", pixels, RescaleIntercept=-24)
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    dataset.save_as(path, overwrite=True)
    assert np.array_equal(grey(path), pixels - 24.0)


def test_padding_becomes_air_also_when_written_unsigned(write_slice: WriteSlice, tmp_path: Path) -> None:
    pixels = np.array([[-2000, 0], [40, -2000]], np.int16)
    path = write_slice(tmp_path / "1", pixels, RescaleIntercept=-10)
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 63536)  # -2000 as unsigned
    dataset.save_as(path, overwrite=True)
    assert grey(path).tolist() == [[-1000, -10], [30, -1000]]


def test_padding_range_and_darkest_value_outside_ct(write_slice: WriteSlice, tmp_path: Path) -> None:
    pixels = np.array([[100, 101], [102, 50]], np.uint16)
    tags = {"PixelPaddingValue": 100, "PixelPaddingRangeLimit": 101, "Modality": "MR"}
    assert grey(write_slice(tmp_path / "1", pixels, **tags)).tolist() == [[50, 50], [102, 50]]


def test_monochrome1_is_turned_before_the_slope(write_slice: WriteSlice, tmp_path: Path) -> None:
    pixels = np.array([[0, 1023], [1, 512]], np.uint16)
    tags = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 10, "HighBit": 9, "Modality": "CR"}
    assert grey(write_slice(tmp_path / "1", pixels, **tags)).tolist() == [[1023, 0], [1022, 511]]
    tags["RescaleIntercept"] = 7
    assert grey(write_slice(tmp_path / "2", pixels, **tags)).tolist() == [[1030, 7], [1029, 518]]


def test_one_bit_images_are_black_and_white(write_slice: WriteSlice, tmp_path: Path) -> None:
    bits = np.array([[1, 0, 0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 0, 0, 0, 0]], np.uint8)
    path = write_slice(tmp_path / "1", bits, BitsAllocated=1, BitsStored=1, HighBit=0, Modality="SEG")
    dataset = pydicom.dcmread(path)
    dataset.PixelData = np.packbits(bits, bitorder="little").tobytes()
    dataset.save_as(path, overwrite=True)
    facts, values = load(path)
    assert facts[0].kind == "byte"
    assert np.array_equal(values[0, :, :, 0], bits * 255.0)


def test_float_pixels_and_nan(write_slice: WriteSlice, tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1", RAMP, Modality="OT")
    dataset = pydicom.dcmread(path)
    values = np.linspace(-0.5, 2, 24, dtype=np.float32).reshape(4, 6)
    values[0, 0] = np.nan
    del dataset.PixelData
    dataset.BitsAllocated = 32
    for name in ("BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.FloatPixelData = values.tobytes()
    dataset.save_as(path, overwrite=True)
    result = grey(path)
    assert np.array_equal(result.ravel()[1:], values.ravel()[1:])
    assert result[0, 0] == values.ravel()[1]


def test_colour(write_slice: WriteSlice, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    facts, values = load(write_slice(tmp_path / "8", pixels, Modality="US"))
    assert facts[0].colour
    assert np.array_equal(values[0], pixels)
    assert facts[0].kind == "byte"
    deep = np.random.default_rng(0).integers(0, 65536, (4, 6, 3)).astype(np.uint16)
    facts, values = load(write_slice(tmp_path / "16", deep, Modality="OT"))
    assert (facts[0].colour, facts[0].kind) == (True, "other")
    assert np.array_equal(values[0], deep)


def test_palette(write_slice: WriteSlice, tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1", np.array([[0, 1], [2, 1]], np.uint8), Modality="US")
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour, table in (("Red", (0, 255, 10)), ("Green", (0, 128, 20)), ("Blue", (0, 64, 30))):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [3, 0, 16])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", (np.array(table, np.uint16) * 257).tobytes())
    dataset.save_as(path, overwrite=True)
    assert load(path)[1][0].tolist() == [[[0, 0, 0], [255, 128, 64]], [[10, 20, 30], [255, 128, 64]]]


def test_a_modality_table_stands_for_slope_and_intercept(write_slice: WriteSlice, tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1", np.array([[0, 1], [2, 3]], np.uint8), Modality="OT")
    dataset = pydicom.dcmread(path)
    del dataset.RescaleSlope, dataset.RescaleIntercept
    table = Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table.ModalityLUTType = "US"
    table.add_new("LUTData", "US", [10, 500, 30, 40])
    dataset.ModalityLUTSequence = Sequence([table])
    dataset.save_as(path, overwrite=True)
    assert grey(path).tolist() == [[10, 500], [30, 40]]


@pytest.mark.parametrize("empty", ["no item", "an item", "an item without data"])
def test_an_empty_modality_table_is_none(write_slice: WriteSlice, tmp_path: Path, empty: str) -> None:
    path = write_slice(tmp_path / "1", np.array([[0, 1], [2, 3]], np.uint8), Modality="OT", RescaleIntercept=10)
    dataset = pydicom.dcmread(path)
    item = Dataset()
    if empty == "an item without data":
        item.LUTDescriptor = [4, 0, 16]
    dataset.ModalityLUTSequence = Sequence([] if empty == "no item" else [item])
    dataset.save_as(path, overwrite=True)
    assert grey(path).tolist() == [[10, 11], [12, 13]]


def test_zero_that_is_padding_stays_the_darkest_value(write_slice: WriteSlice, tmp_path: Path) -> None:
    """Of a mask of 0 and 255 the darkest that is no padding is 255."""
    pixels = np.array([[0, 255], [255, 0]], np.uint8)
    assert grey(write_slice(tmp_path / "1", pixels, Modality="SEG", PixelPaddingValue=0)).tolist() == pixels.tolist()
    wide = np.array([[0, 900], [40, 0]], np.uint16)
    assert grey(write_slice(tmp_path / "2", wide, Modality="MR", PixelPaddingValue=0)).tolist() == wide.tolist()
    tags = {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1", "BitsStored": 10, "HighBit": 9}
    assert grey(write_slice(tmp_path / "3", wide, Modality="CR", **tags)).tolist() == [[123, 123], [983, 123]]
    ct = write_slice(tmp_path / "4", wide, PixelPaddingValue=0, RescaleIntercept=-1024)
    assert grey(ct).tolist() == [[-1000, -124], [-984, -1000]]


def jpeg_of_12_bits(path: Path) -> None:
    """Compress a file by JPEG Extended, with GDCM."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


def test_jpeg_of_12_bits_is_what_simpleitk_decodes(write_slice: WriteSlice, tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :48]
    pixels = (2000 + 1000 * np.sin(y / 9) + 900 * np.cos(x / 7)).astype(np.uint16)
    tags = {"BitsStored": 12, "HighBit": 11, "Modality": "CR", "RescaleSlope": 2, "RescaleIntercept": -7}
    path = write_slice(tmp_path / "1.dcm", pixels, **tags)
    jpeg_of_12_bits(path)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGExtended12Bit
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
    assert np.array_equal(grey(path), theirs)
    assert np.abs((grey(path) + 7) / 2 - pixels).max() < 40
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\xff\xd8\xff", b"\0\0\0"))
    with pytest.raises(DataError, match=r"1\.dcm: the pixels cannot be decoded: damaged or cut short"):
        load(path)


def test_enhanced_frames_have_their_own_place_and_slope(write_slice: WriteSlice, tmp_path: Path) -> None:
    path = write_slice(tmp_path / "1", RAMP)
    dataset = pydicom.dcmread(path)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, name)
    dataset.NumberOfFrames = 3
    dataset.PixelData = np.stack([RAMP, RAMP + 1, RAMP + 2]).tobytes()

    def item(**values: object) -> Sequence:
        inner = Dataset()
        for name, value in values.items():
            setattr(inner, name, value)
        return Sequence([inner])

    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.7, 0.6], SliceThickness=3)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for index, z in enumerate((6, 0, 3)):
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=[1, 2, z])
        frame.PixelValueTransformationSequence = item(RescaleSlope=index + 1, RescaleIntercept=-100)
        frames.append(copy.deepcopy(frame))
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.save_as(path, overwrite=True)
    facts, values = load(path)
    assert [item.position for item in facts] == [(1, 2, 6), (1, 2, 0), (1, 2, 3)]
    assert facts[0].spacing == (0.7, 0.6)
    for index in range(3):
        assert np.array_equal(values[index, :, :, 0], (RAMP + index) * (index + 1.0) - 100)


def colour_by_palette(path: Path, entries: np.ndarray, bits: int, *, packed: bool = False, little: bool = True) -> Path:
    """Give a file a palette whose three colours are `entries` of so many `bits`, `packed` two a word or one each."""
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    words = entries.astype(np.uint8).view("<u2") if packed else entries.astype("<u2")
    for colour in ("Red", "Green", "Blue"):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [len(entries), 0, bits])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", words.astype("<u2" if little else ">u2").tobytes())
    if not little:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=little)
    return path


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize(("factor", "bits", "packed"), [(1, 8, False), (1, 8, True), (1, 16, False), (257, 16, False)])
def test_palettes_of_8_bits_in_words_of_16(
    write_slice: WriteSlice, tmp_path: Path, factor: int, bits: int, packed: bool, little: bool
) -> None:
    entries = np.array([0, 255, 130, 7])
    path = write_slice(tmp_path / "1", np.array([[0, 1, 2, 3], [3, 3, 1, 0]], np.uint8), Modality="US")
    colour_by_palette(path, entries * factor, bits, packed=packed, little=little)
    assert load(path)[1][0, :, :, 1].tolist() == [[0, 255, 130, 7], [7, 7, 255, 0]]


def test_a_palette_may_have_more_entries_than_a_byte_has_values(write_slice: WriteSlice, tmp_path: Path) -> None:
    entries = np.arange(1000) // 4
    path = write_slice(tmp_path / "1", np.array([[0, 400], [999, 2000]], np.uint16), Modality="NM")
    colour_by_palette(path, entries, 8, packed=True)
    assert load(path)[1][0, :, :, 2].tolist() == [[0, 100], [249, 249]]


@pytest.mark.parametrize("count", [2, 3])
def test_more_frames_than_the_header_says_are_refused(write_slice: WriteSlice, tmp_path: Path, count: int) -> None:
    """Two or three frames of grey are no second or third channel of one."""
    path = write_slice(tmp_path / "a.dcm", np.vstack([RAMP] * count), Rows=4)
    with pytest.raises(DataError, match=rf"a\.dcm: .*holds pixels for {count} frames, its header says 1"):
        load(path)


def test_hu_are_not_turned_however_they_are_shown(write_slice: WriteSlice, tmp_path: Path) -> None:
    """The rescaling comes before the display (DICOM PS3.3, C.11.1)."""
    pixels = np.array([[-1000, 0], [40, 3000]], np.int16)
    path = write_slice(tmp_path / "1", pixels, PhotometricInterpretation="MONOCHROME1", RescaleIntercept=-24)
    assert np.array_equal(grey(path), pixels - 24)


@pytest.mark.parametrize(
    ("unit", "kind"),
    [(None, "hu"), ("HU", "hu"), ("HU_MOD", "hu"), ("US", "hu"), ("Hounsfield", "hu"), ("MGML", "other")],
)
def test_ct_of_another_unit_is_not_in_hu(write_slice: WriteSlice, tmp_path: Path, unit: str | None, kind: str) -> None:
    assert load(write_slice(tmp_path / "1", RAMP, RescaleType=unit, RescaleSlope=0.1))[0][0].kind == kind


def test_parametric_maps_of_ct_are_not_in_hu(write_slice: WriteSlice, tmp_path: Path) -> None:
    assert load(write_slice(tmp_path / "1", RAMP, SOPClassUID="1.2.840.10008.5.1.4.1.1.30"))[0][0].kind == "other"


def test_values_in_the_upper_bits_of_their_words(write_slice: WriteSlice, tmp_path: Path) -> None:
    values = np.array([[0, 100], [-2048, 2047]], np.int16)
    tags = {"BitsStored": 12, "HighBit": 15, "RescaleIntercept": -24}
    assert np.array_equal(grey(write_slice(tmp_path / "1", values << 4, **tags)), values - 24)
    low = write_slice(tmp_path / "2", values, **tags)  # only the header is wrong
    assert np.array_equal(grey(low), values - 24)


@pytest.mark.parametrize("shared", [True, False])
def test_scaled_bytes_of_frames_are_no_greys(write_slice: WriteSlice, tmp_path: Path, shared: bool) -> None:
    path = write_slice(tmp_path / "1", RAMP.astype(np.uint8), Modality="MR", RescaleSlope=None, RescaleIntercept=None)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = dataset.PixelData * 2
    dataset.NumberOfFrames = 2
    frames = []
    for slope in (1, 20):
        scaling, frame = Dataset(), Dataset()
        scaling.RescaleSlope, scaling.RescaleIntercept = 20 if shared else slope, 0
        frame.PixelValueTransformationSequence = Sequence([scaling])
        frames.append(frame)
    if shared:
        dataset.SharedFunctionalGroupsSequence = Sequence(frames[:1])
    else:
        dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.save_as(path, overwrite=True)
    facts, values = load(path)
    assert [item.kind for item in facts] == ["other", "other"]
    assert values.max() == 20 * RAMP.max()


@pytest.mark.parametrize("offsets", [[0, 2, 4], [-30, -28, -26]])
def test_planes_of_dose_lie_where_either_kind_of_offset_says(
    write_slice: WriteSlice, tmp_path: Path, offsets: list[float]
) -> None:
    tags = {"Modality": "RTDOSE", "NumberOfFrames": 3, "GridFrameOffsetVector": offsets}
    path = write_slice(tmp_path / "1", RAMP, z=-30.0, **tags)
    assert [item.position for item in scan(entry_of(path), "")] == [(-10, -20, z) for z in (-30, -28, -26)]


def test_the_pixels_of_x_rays_measure_what_they_do_at_the_patient(write_slice: WriteSlice, tmp_path: Path) -> None:
    tags = {"Modality": "MG", "PixelSpacing": None, "ImagerPixelSpacing": [0.09, 0.12]}
    factor = {"EstimatedRadiographicMagnificationFactor": 1.5}
    assert load(write_slice(tmp_path / "1", RAMP, **tags))[0][0].spacing == (0.09, 0.12)
    assert load(write_slice(tmp_path / "2", RAMP, **tags, **factor))[0][0].spacing == pytest.approx((0.06, 0.08))
    tall = write_slice(tmp_path / "3", RAMP, Modality="OT", PixelSpacing=None, PixelAspectRatio=[6, 5])
    (stack,), _ = build_stacks(scan(entry_of(tall), ""))
    assert (stack.spacing[1:], stack.measured) == ((1.2, 1.0), False)


def test_faults_are_told_in_one_sentence(write_slice: WriteSlice, tmp_path: Path) -> None:
    path = write_slice(tmp_path / "cut.dcm", RAMP)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(DataError, match=r"cut\.dcm: the pixels cannot be decoded"):
        load(path)
    (tmp_path / "text.dcm").write_bytes(b"this is not DICOM file at all " * 20)
    with pytest.raises(DataError, match=r"text\.dcm"):
        load(tmp_path / "text.dcm")
    (tmp_path / "empty.dcm").write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        load(tmp_path / "empty.dcm")
    plan = write_slice(
        tmp_path / "plan.dcm", RAMP, Rows=None, Columns=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.5"
    )
    with pytest.raises(DataError, match=r"holds no image \(RT Plan Storage\)"):
        load(plan)


def test_what_claims_nothing_holds_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "something"
    path.write_bytes(b"neither image nor anything else, but long enough to be looked at" * 5)
    with pytest.raises(NoPicture, match="neither DICOM"):
        scan(entry_of(path), "")


CLASSES = {
    "1.2.840.10008.5.1.4.1.1.481.3": "RT Structure Set",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive SR",
    "1.2.840.10008.5.1.4.1.1.11.1": "Grayscale Softcopy Presentation State",
    "1.2.840.10008.5.1.4.1.1.88.59": "Key Object Selection Document",
    "1.2.840.10008.1.3.10": "Media Storage Directory",
    "1.3.12.2.1107.5.9.1": "private object",
}


@pytest.mark.parametrize("uid", CLASSES)
def test_files_without_pixels_by_their_class_are_no_faults(write_slice: WriteSlice, tmp_path: Path, uid: str) -> None:
    path = write_slice(tmp_path / "a.dcm", RAMP, Rows=None, Columns=None, SOPClassUID=uid)
    with pytest.raises(NoPicture, match=r"a\.dcm: holds no image") as told:
        scan(entry_of(path), "")
    assert told.value.holds == CLASSES[uid]


def test_an_image_that_lost_its_size_is_a_fault(write_slice: WriteSlice, tmp_path: Path) -> None:
    path = write_slice(tmp_path / "a.dcm", RAMP, Rows=None)
    with pytest.raises(DataError, match=r"holds no image \(CT Image Storage\)") as told:
        scan(entry_of(path), "")
    assert not isinstance(told.value, NoPicture)


@pytest.mark.parametrize(
    ("tags", "holds"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}, "Segmentation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.7", "Modality": "SEG"}, "Segmentation"),  # label maps, of 2024
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2", "Modality": "RTDOSE"}, "RT Dose"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30", "Modality": "MR"}, ""),  # parametric map
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.2", "Modality": "US"}, ""),  # enhanced ultrasound
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"}, ""),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, ""),
    ],
)
def test_pixels_that_show_no_patient_say_what_they_are(
    write_slice: WriteSlice, tmp_path: Path, tags: dict[str, str], holds: str
) -> None:
    (facts,) = scan(entry_of(write_slice(tmp_path / "a.dcm", RAMP, **tags)), "")
    assert facts.holds == holds
