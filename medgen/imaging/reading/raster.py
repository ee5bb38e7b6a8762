"""PNG, JPG, TIFF and BMP images: any mode of Pillow becomes grey or RGB, upright."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from medgen.artifacts.synthetic import told_by
from medgen.errors import DataError
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.slices import SliceFacts

MAX_PIXELS = 1 << 28  # a side of 16384: far above any scanner, far below what harms
_GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_WIDE_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def scan_raster(entry: Entry, modality: str) -> list[SliceFacts]:
    """The one slice of an image file, from its header. DataError if it is no image or too large."""
    image = _open(entry)
    width, height = image.size
    if _turned(image):
        width, height = height, width
    return [
        SliceFacts(
            entry=entry,
            frame=0,
            format="raster",
            rows=height,
            columns=width,
            colour=image.mode not in _GREY_MODES and not _grey_palette(image),
            kind="other" if image.mode in _WIDE_MODES else "byte",
            modality=modality,
            synthetic=told_by(str(image.info.get("Description", ""))),
        )
    ]


def read_raster(entry: Entry) -> npt.NDArray[np.float32]:
    """Values (1, H, W, C), C = 3 for colour, 0..255 but for images of more than 8 bits; transparency lies on black."""
    image = _open(entry)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in _WIDE_MODES:
        values = np.asarray(image, dtype=np.float32)
    elif image.mode in _GREY_MODES or _grey_palette(image):
        values = np.asarray(_on_black(image).convert("L"), dtype=np.float32)
    else:
        values = np.asarray(_on_black(image).convert("RGB"), dtype=np.float32)
    return values.reshape(1, *values.shape[:2], -1)


def _open(entry: Entry) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own bomb warning; the limit below is stricter
        try:
            image = Image.open(io.BytesIO(entry.read()) if entry.member else entry.path)
        except Image.DecompressionBombError:
            raise DataError(f"{entry.name}: has far too many pixels; refused") from None
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{entry.name}: {image.width} x {image.height} pixels are too many; refused")
    return image


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
