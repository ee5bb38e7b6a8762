"""PNG and JPG of every mode become grey or RGB, upright."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medgen.errors import DataError
from medgen.imaging.reading import raster
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.formats import read, scan
from medgen.imaging.reading.series import build_stacks

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def png_of_16_bits(pixels: np.ndarray, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of `pixels` (H, W, C), `kind` 2: RGB, 4: grey and alpha, 6: RGB and alpha; a filter a line."""
    height, width, channels = pixels.shape
    raw = pixels.astype(">u2").tobytes()
    length, step = width * channels * 2, channels * 2
    before, lines = bytes(length), b""
    for y in range(height):
        line = raw[y * length : (y + 1) * length]
        left = bytes(step) + line[:-step]
        predicted = (bytes(length), left, before, bytes((a + b) // 2 for a, b in zip(left, before, strict=True)))[y % 4]
        lines += bytes([y % 4]) + bytes((a - b) % 256 for a, b in zip(line, predicted, strict=True))
        before = line

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


DEEP = np.random.default_rng(1).integers(0, 65536, (6, 8, 4)).astype(np.uint16)


def load(path: Path) -> tuple[str, bool, np.ndarray]:
    entry = Entry(str(path), "", path.stat().st_size, 0, path.name)
    (facts,) = scan(entry, "")
    values = read(entry, "raster", (facts.frame,), hu=False)
    assert values.shape[:3] == (1, facts.rows, facts.columns)
    assert values.shape[3] == (3 if facts.colour else 1)
    return facts.kind, facts.colour, values[0]


def test_grey_and_colour(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "l.png")
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    assert np.array_equal(load(tmp_path / "l.png")[2][:, :, 0], GREY)
    kind, colour, values = load(tmp_path / "rgb.png")
    assert (kind, colour) == ("byte", True)
    assert np.array_equal(values, RGB)


def test_transparency_lies_on_black(tmp_path: Path) -> None:
    alpha = np.full((6, 8, 1), 255, np.uint8)
    alpha[0] = 0
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / "rgba.png")
    values = load(tmp_path / "rgba.png")[2]
    assert (values[0] == 0).all()
    assert np.array_equal(values[1:], RGB[1:])


def test_palettes_of_greys_stay_grey(tmp_path: Path) -> None:
    image = Image.fromarray(GREY).convert("P")
    image.putpalette([value for level in range(256) for value in (level, level, level)])
    image.save(tmp_path / "p.png")
    _, colour, values = load(tmp_path / "p.png")
    assert not colour
    assert np.array_equal(values[:, :, 0], GREY)
    image.putpalette([value for level in range(256) for value in (level, 0, 255 - level)])
    image.save(tmp_path / "c.png")
    assert load(tmp_path / "c.png")[1]


def test_16_and_1_bit(tmp_path: Path) -> None:
    wide = GREY.astype(np.uint16) * 250
    Image.fromarray(wide).save(tmp_path / "wide.png")
    kind, _, values = load(tmp_path / "wide.png")
    assert kind == "other"
    assert np.array_equal(values[:, :, 0], wide)
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    assert np.array_equal(load(tmp_path / "bits.png")[2][:, :, 0], (GREY > 100) * 255)


def test_the_orientation_tag_is_obeyed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    for name in ("turned.png", "turned.jpg"):
        Image.fromarray(GREY).save(tmp_path / name, exif=exif, quality=100)
        values = load(tmp_path / name)[2][:, :, 0]
        assert np.abs(values - np.rot90(GREY, -1)).max() < (1 if name.endswith("png") else 4)


def test_too_many_pixels_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[:-40])
    with pytest.raises(DataError, match=r"cut\.png"):
        load(tmp_path / "cut.png")
    (tmp_path / "text.png").write_bytes(b"no image" * 40)
    with pytest.raises(DataError, match=r"text\.png: not a readable image"):
        load(tmp_path / "text.png")
    monkeypatch.setattr(raster, "MAX_PIXELS", 40)
    with pytest.raises(DataError, match="too many"):
        load(tmp_path / "a.png")


def test_colour_of_16_bits_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of_16_bits(DEEP[..., :3], 2))
    kind, colour, values = load(path)
    assert (kind, colour) == ("other", True)
    assert np.array_equal(values, DEEP[..., :3])
    path.write_bytes(png_of_16_bits(DEEP[..., :3], 2, (b"tRNS", DEEP[2, 3, :3].astype(">u2").tobytes())))
    values = load(path)[2]
    assert np.array_equal(np.argwhere((values == 0).all(axis=2)), [[2, 3]])


def test_transparency_of_16_bits_lies_on_black(tmp_path: Path) -> None:
    share = DEEP[..., 3:] / 65535
    (tmp_path / "a.png").write_bytes(png_of_16_bits(DEEP, 6))
    kind, colour, values = load(tmp_path / "a.png")
    assert (kind, colour) == ("other", True)
    np.testing.assert_allclose(values, DEEP[..., :3] * share, rtol=1e-5)
    (tmp_path / "b.png").write_bytes(png_of_16_bits(DEEP[..., 2:], 4))
    kind, colour, values = load(tmp_path / "b.png")
    assert (kind, colour) == ("other", False)
    np.testing.assert_allclose(values, DEEP[..., 2:3] * share, rtol=1e-5)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_16_bits(tmp_path: Path, compression: str | None, order: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP[..., :3], photometric="rgb", compression=compression, byteorder=order)
    kind, colour, values = load(path)
    assert (kind, colour) == ("other", True)
    assert np.array_equal(values, DEEP[..., :3])


def test_white_at_zero_is_turned(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DEEP[..., 0], photometric="miniswhite")
    assert np.array_equal(load(tmp_path / "a.tif")[2][..., 0], 65535 - DEEP[..., 0])


def test_planes_of_16_bits_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DEEP[..., :3].transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    with pytest.raises(DataError, match=r"a\.tif: the pixels cannot be decoded: colour of 16 bits is read as RGB"):
        load(tmp_path / "a.tif")


def test_large_unsigned_numbers_do_not_wrap(tmp_path: Path) -> None:
    pixels = np.array([[3_000_000_000, 7], [0, 2**32 - 256]], np.uint32)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    assert np.array_equal(load(tmp_path / "a.tif")[2][..., 0], pixels.astype(np.float32))
    tifffile.imwrite(tmp_path / "b.tif", pixels.astype(np.int32))
    assert load(tmp_path / "b.tif")[2].min() < 0


def test_the_pages_of_a_tiff_are_a_stack(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = np.arange(3 * 6 * 8, dtype=np.uint8).reshape(3, 6, 8)
    with tifffile.TiffWriter(path) as writer:
        for page in pages:
            writer.write(page, photometric="minisblack")
        writer.write(pages[0, ::2, ::2], photometric="minisblack", subfiletype=1)  # a preview
    entry = Entry(str(path), "", path.stat().st_size, 0, path.name)
    (stack,), _ = build_stacks(scan(entry, ""))
    values = read(entry, "raster", [item.frame for item in stack.slices], hu=False)
    assert np.array_equal(values[..., 0], pages)


@pytest.mark.parametrize("pixels", [GREY, RGB])
@pytest.mark.parametrize("deep", [1, 257])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_the_orientation_tag_of_each_page_is_obeyed(
    tmp_path: Path, pixels: np.ndarray, deep: int, compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    pages = [page.astype(np.uint16) * deep if deep > 1 else page for page in (pixels, pixels[::-1])]
    with tifffile.TiffWriter(path) as writer:
        for page in pages:
            tags = [(274, "H", 1, 6, True)]  # turn right
            photometric = "rgb" if page.ndim == 3 else "minisblack"
            writer.write(page, photometric=photometric, compression=compression, extratags=tags, contiguous=False)
    entry = Entry(str(path), "", path.stat().st_size, 0, path.name)
    facts = scan(entry, "")
    values = read(entry, "raster", [item.frame for item in facts], hu=False)
    assert {(item.rows, item.columns) for item in facts} == {(8, 6)}
    assert np.array_equal(values, [np.rot90(page, -1).reshape(8, 6, -1) for page in pages])


def test_what_is_no_number_is_dark(tmp_path: Path) -> None:
    pixels = GREY.astype(np.float32) + 7
    pixels[2, 3:6] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    assert np.array_equal(load(tmp_path / "a.tif")[2][..., 0], np.where(np.isfinite(pixels), pixels, 7))


def test_signed_bytes(tmp_path: Path) -> None:
    pixels = (GREY.astype(np.int16) - 120).astype(np.int8)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    kind, _, values = load(tmp_path / "a.tif")
    assert kind == "other"
    assert np.array_equal(values[..., 0], pixels)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32])
def test_tiff_of_either_order_of_bytes(tmp_path: Path, compression: str | None, order: str, kind: type) -> None:
    pixels = (np.random.default_rng(0).normal(0, 9999, (6, 8))).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=order, compression=compression)
    assert np.array_equal(load(tmp_path / "a.tif")[2][..., 0], pixels.astype(np.float32))


@pytest.mark.parametrize("told", [{"volumetric": True, "tile": (4, 16, 16)}, {"imagej": True, "truncate": True}])
def test_slices_that_share_a_page_are_refused(tmp_path: Path, told: dict[str, object]) -> None:
    volume = np.zeros((4, 16, 16), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", volume, photometric="minisblack", **told)
    with pytest.raises(DataError, match=r"a\.tif: a page of it holds several slices"):
        load(tmp_path / "a.tif")
