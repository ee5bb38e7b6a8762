"""Colour and transparency of 16 bits per channel, of which Pillow keeps only the upper byte.

So the pixels are decoded a second time with the two bytes of each channel swapped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import ImageOps
from PIL.ImageFile import ImageFile

_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_GREY_AND_ALPHA = "LA;16B"  # for Pillow this is colour
_TIFF_BITS = 258


def is_deep(image: ImageFile) -> bool:
    """Whether an image that is not loaded yet has channels of 16 bits that Pillow would cut to 8."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return False
    return ";16" in _raw(image) or max(getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,))) > 8


def is_grey(image: ImageFile) -> bool:
    """Whether such an image is grey, with transparency."""
    return _raw(image) == _GREY_AND_ALPHA


def read_deep(opened: Callable[[], ImageFile]) -> npt.NDArray[np.float32]:
    """Values (H, W, C), 0..65535, upright; transparency is blended onto black. `opened` opens the file again.

    ValueError for what Pillow cannot decode twice: separate planes, CMYK, premultiplied colour.
    """
    image = opened()
    raw, transparent = _raw(image), image.info.get("transparency")
    layout, _, order = raw.partition(";16")
    if raw == _GREY_AND_ALPHA:
        parts = _loaded(image, "RGBA")  # upper and lower byte of grey, then of alpha
        upper, lower = parts[..., 0::2], parts[..., 1::2]
    elif layout in ("RGB", "RGBA") and order in _OTHER_ORDER:
        upper, lower = _loaded(image, raw), _loaded(opened(), f"{layout};16{_OTHER_ORDER[order]}")
    else:
        raise ValueError("colour of 16 bits is read as RGB or RGBA only, with the channels of a pixel side by side")
    values = upper.astype(np.float32) * 256 + lower
    if values.shape[2] in (2, 4):
        return values[..., :-1] * (values[..., -1:] / np.float32(65535))
    if transparent is not None:
        values[(values == np.array(transparent)).all(axis=2)] = 0
    return values


def _raw(image: ImageFile) -> str:
    """The layout of a pixel's bytes in the file, as Pillow's raw mode."""
    arguments = image.tile[0].args if image.tile else None
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _loaded(image: ImageFile, raw: str) -> npt.NDArray[np.uint8]:
    """The image (H, W, C), upright, its bytes read as `raw` says."""
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]
    image.load()
    return np.asarray(ImageOps.exif_transpose(image))
