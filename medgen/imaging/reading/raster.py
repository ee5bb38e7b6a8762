"""PNG, JPG, TIFF and BMP images: any Pillow mode becomes grey or RGB, upright; the pages of a TIFF form a stack."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from medgen.artifacts.synthetic import told_by
from medgen.errors import DataError
from medgen.imaging.reading import deep_colour
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.slices import MAX_PIXELS, SliceFacts

_GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_WIDE_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}

_JPEG = b"\xff\xd8\xff"

# Tags of TIFF, and what they say.
_SUBFILE, _REDUCED = 254, 1
_WIDTH, _HEIGHT = 256, 257
_BITS = 258
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_SAMPLES, _UNSIGNED, _SIGNED = 339, 1, 2
_DEPTH = 32997  # slices in one page
_DESCRIPTION, _IMAGEJ = 270, re.compile(r"ImageJ=.*^images=([2-9]|1\d)", re.DOTALL | re.MULTILINE)

_ORDERED = re.compile(r"^(I;16|I;32|F;32|F;64)B?([SF])$")
"""Pillow's raw modes of numbers whose bytes have an order."""


def scan_raster(entry: Entry, modality: str) -> list[SliceFacts]:
    """The slice of an image file, or those of its pages, from the header. DataError if not an image or too large."""
    return [_facts(entry, image, page, modality) for page, image in _pages(entry)]


def read_raster(entry: Entry, frames: Sequence[int]) -> npt.NDArray[np.float32]:
    """Values (F, H, W, C), C = 3 for colour, 0..255 unless of more than 8 bits; transparency is blended onto black."""
    return np.stack([_values(entry, frame) for frame in frames])


def read_labels(entry: Entry, frame: int) -> npt.NDArray[np.float32]:
    """Values (H, W, C) of a page that is a mask; with a colour palette, the palette indices, which are classes."""
    image = _open(entry, frame)
    if image.mode == "P" and not _grey_palette(image):
        return np.asarray(ImageOps.exif_transpose(image), dtype=np.float32)[:, :, None]
    return _values(entry, frame)


def is_jpeg(entry: Entry) -> bool:
    """Whether a file is a JPEG, whose compression changes values."""
    return entry.head(len(_JPEG)) == _JPEG


def _facts(entry: Entry, image: ImageFile, page: int, modality: str) -> SliceFacts:
    tags = _tags(image)
    width, height = (tags[_WIDTH], tags[_HEIGHT]) if tags else image.size  # Pillow may have turned the size, or not
    if _turned(image):
        width, height = height, width
    deep = deep_colour.is_deep(image)
    return SliceFacts(
        entry=entry,
        frame=page,
        format="raster",
        rows=height,
        columns=width,
        colour=not deep_colour.is_grey(image) if deep else image.mode not in _GREY_MODES and not _grey_palette(image),
        kind="other" if deep or image.mode in _WIDE_MODES or _signed_bytes(image) else "byte",
        modality=modality,
        synthetic=told_by(str(image.info.get("Description", ""))),
        sample=entry.sample() if page == 0 else "",
    )


def _values(entry: Entry, page: int) -> npt.NDArray[np.float32]:
    """One page (H, W, C)."""
    opened = _open(entry, page)
    if deep_colour.is_deep(opened):
        return deep_colour.read_deep(lambda: _open(entry, page))
    opened.load()
    image = ImageOps.exif_transpose(opened)
    if _signed_bytes(opened):
        values = np.asarray(image).view(np.int8).astype(np.float32)
    elif image.mode in _WIDE_MODES:
        values = _as_tagged(np.asarray(image), _tags(opened))
    elif image.mode in _GREY_MODES or _grey_palette(image):
        values = np.asarray(_on_black(image).convert("L"), dtype=np.float32)
    else:
        values = np.asarray(_on_black(image).convert("RGB"), dtype=np.float32)
    return values.reshape(*values.shape[:2], -1)


def _open(entry: Entry, page: int = 0) -> ImageFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own bomb warning; the limit below is stricter
        try:
            image = Image.open(io.BytesIO(entry.read()) if entry.member else entry.path)
            image.seek(page)
            if image.format == "TIFF":
                _set_right(image)
        except Image.DecompressionBombError:
            raise DataError(f"{entry.name}: has far too many pixels; refused") from None
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{entry.name}: {image.width} x {image.height} pixels are too many; refused")
    return image


def _set_right(image: ImageFile) -> None:
    """Keep Pillow from mistaking pixels: the sides of a page that is mapped to memory and turned, and orders of bytes.

    What libtiff inflates has this machine's order, which Pillow heeds only for unsigned numbers of 16 bits.
    """
    if _turned(image):
        image.filename = ""  # not mapped then
    image.tile = [
        tile._replace(args=(_ORDERED.sub(r"\1N\2", str(tile.args[0])), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]


def _pages(entry: Entry) -> Iterator[tuple[int, ImageFile]]:
    """The image at each page of a TIFF, except previews of another page; for other formats, only the first image."""
    image = _open(entry)
    count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    for page in range(count):
        image.seek(page)
        tags = _tags(image)
        if tags.get(_DEPTH, 1) > 1 or (count == 1 and _IMAGEJ.match(str(tags.get(_DESCRIPTION)))):
            raise DataError(f"{entry.name}: a page of it holds several slices; save each slice as a page of its own")
        if not tags.get(_SUBFILE, 0) & _REDUCED:
            yield page, image


def _tags(image: Image.Image) -> dict[int, Any]:
    """The tags of a TIFF; empty for other formats."""
    return dict(getattr(image, "tag_v2", {}))


def _as_tagged(values: npt.NDArray[Any], tags: dict[int, Any]) -> npt.NDArray[np.float32]:
    """Correct TIFFs of more than 8 bits: Pillow reads unsigned integers as signed ones and leaves white at 0."""
    bits = max(tags.get(_BITS, (8,)))
    if bits == 32 and values.dtype == np.int32 and max(tags.get(_SAMPLES, (_UNSIGNED,))) == _UNSIGNED:
        values = values.view(np.uint32)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and values.dtype.kind != "f":
        return np.float32(2**bits - 1) - values.astype(np.float32)
    return values.astype(np.float32)


def _signed_bytes(image: Image.Image) -> bool:
    """Whether the values of a grey image are from -128 to 127, which Pillow takes for 0 to 255."""
    return image.mode == "L" and max(_tags(image).get(_SAMPLES, (_UNSIGNED,))) == _SIGNED


def _turned(image: Image.Image) -> bool:
    """Whether the orientation tag turns it by 90 degrees; a PNG without one would decode itself to look for it."""
    if image.format == "PNG" and "exif" not in image.info:
        return False
    try:
        return int(image.getexif().get(0x0112, 1)) >= 5
    except (OSError, SyntaxError, ValueError, TypeError):
        return False  # reading the pixels will tell what is wrong


def _grey_palette(image: Image.Image) -> bool:
    """Whether an indexed image uses greys only."""
    if image.mode != "P" or image.palette is None:
        return False
    colours = np.asarray(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
    return bool((colours[:, :1] == colours).all())


def _on_black(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    opaque = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", opaque.size, (0, 0, 0, 255)), opaque)
