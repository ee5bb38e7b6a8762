"""Cases -> PNG files, one per slice: windowed to 8 bits for viewing, or the stored values in 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.synthetic import describe
from medgen.errors import DataError
from medgen.imaging.writing.masks import shown_mask


def write_png(folder: Path, name: str, case: Case, header: SetHeader, *, bits: int = 8) -> list[str]:
    """Write `name/0000.png`, ... (`name.png` if the case has one slice), and `..._mask.png` for its masks.

    Returns names relative to `folder`, one per slice, without those of the masks.
    """
    intensity = header.intensity or Intensity(unit="", window=(-1.0, 1.0))
    where = f"case {case.id}"
    images = eight_bits(case["image"], intensity, where) if bits == 8 else sixteen_bits(case["image"], where)
    if images.shape[1] not in (1, 3) or (bits == 16 and images.shape[1] != 1):
        raise DataError(f"case {case.id}: has {images.shape[1]} channels; a PNG has one, or in 8 bits three")
    stems = [name] if len(case) == 1 else [f"{name}/{index:04d}" for index in range(len(case))]
    if len(case) > 1:
        (folder / name).mkdir()
    for stem, image in zip(stems, images, strict=True):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        save_png(folder / f"{stem}.png", pixels, describe(case.synthetic))
    if "mask" in case.arrays:
        for stem, masks in zip(stems, case["mask"], strict=True):
            for number, mask in enumerate(masks):
                suffix = "_mask" if len(masks) == 1 else f"_mask{number}"
                save_png(folder / f"{stem}{suffix}.png", shown_mask(mask, header))
    return [f"{stem}.png" for stem in stems]


def physical_scale(intensity: Intensity, dtype: npt.DTypeLike, bits: int) -> tuple[float, float]:
    """(scale, offset) that turn pixel values of the PNG into physical ones."""
    if bits == 8:
        low, high = intensity.window
        return (high - low) / 255.0, low
    return intensity.scale, intensity.offset + intensity.scale * shift_of(dtype)


def eight_bits(image: npt.NDArray[Any], intensity: Intensity, where: str) -> npt.NDArray[np.uint8]:
    """Stored values -> 0 to 255 over the window; DataError for values that are not finite, which no grey shows."""
    levels = intensity.normalized(image)
    if np.isnan(levels).any():
        raise DataError(f"{where}: has values that are not finite; export NIfTI")
    pixels: npt.NDArray[np.uint8] = np.rint((levels + 1.0) * 127.5).astype(np.uint8)
    return pixels


def sixteen_bits(image: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint16]:
    """Stored integers -> unsigned ones; signed values are shifted by 32768."""
    if image.dtype.kind not in "iu":
        raise DataError(f"{where}: holds {image.dtype} values, which 16-bit PNG cannot; export 8 bits, or NIfTI")
    shifted = image.astype(np.int64) - shift_of(image.dtype)
    if shifted.min(initial=0) < 0 or shifted.max(initial=0) > 65535:
        raise DataError(f"{where}: has values that 16-bit PNG cannot hold; export NIfTI")
    return shifted.astype(np.uint16)


def shift_of(dtype: npt.DTypeLike) -> int:
    """The stored value that becomes 0 in a 16-bit PNG."""
    return -32768 if np.dtype(dtype).kind == "i" else 0


def save_png(path: Path, pixels: npt.NDArray[Any], description: str = "") -> None:
    """(H, W) of 8 or 16 bits or (H, W, 3) of 8 -> a file without any time in it, `description` as its text."""
    from PIL import Image, PngImagePlugin

    text = PngImagePlugin.PngInfo()
    if description:
        text.add_text("Description", description)
    Image.fromarray(pixels).save(path, format="PNG", compress_level=6, pnginfo=text)
