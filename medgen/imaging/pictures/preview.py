"""A contact sheet: which slices of a set to show, and what is written below them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from medgen.artifacts.schema import Intensity
from medgen.artifacts.stored import CaseRow, StoredSet
from medgen.errors import DataError
from medgen.imaging.pictures.contact_sheet import Mark, Tile
from medgen.imaging.pictures.options import PreviewOptions

LONGEST_ID = 16
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ShownSlice:
    """One slice of a set: its case, its place in the case, and its place in the set's arrays."""

    row: CaseRow
    slice: int
    index: int


def make_tiles(stored: StoredSet, options: PreviewOptions) -> list[Tile]:
    """The tiles of the sheet, in the order of the set. DataError if there is nothing to show."""
    header = stored.header
    vectors = stored.column("vector") if stored.has("vector") else None
    findings = vectors[:, 0] >= 0.5 if vectors is not None and header.vector_fields[:1] == ("has_nodule",) else None
    spots = choose(stored.cases, options, findings)
    if not spots:
        raise DataError(f"no case is in split '{options.split}'" if options.split else "the set holds no case")
    indices = [spot.index for spot in spots]
    if header.kind == "latent":
        pictures = latents_as_colours(stored.read("latent", indices))
    else:
        pictures = images_as_shown(stored.read("image", indices), header.intensity)
    masks = stored.read("mask", indices) if options.marks and stored.has("mask") else None
    texts = stored.texts("text") if stored.has("text") else None
    tiles = []
    for number, spot in enumerate(spots):
        vector = None if vectors is None else vectors[spot.index]
        size = tile_size(pictures[number], spot, options, header.kind)
        tiles.append(
            Tile(
                picture=resize(pictures[number], size, smooth=header.kind != "latent"),
                outline=None if masks is None else resize_mask(masks[number].any(axis=0), size),
                mark=mark_of(header.vector_fields, vector) if options.marks else None,
                case=spot.row.id,
                lines=captions(spot, header.vector_fields, vector, texts[spot.index] if texts else ""),
            )
        )
    return tiles


def title(stored: StoredSet) -> str:
    """What the set is, in one line."""
    header = stored.header
    parts = [f"{header.kind} set by {header.provenance.steps[-1].command}"]
    parts.append(f"{_counted(len(stored.cases), 'case')}, {_counted(stored.slices, 'slice')}")
    if header.kind == "latent":
        parts.append("first channels as red, green, blue")
    elif header.intensity is not None:
        low, high = header.intensity.window
        parts.append(f"window {low:g} to {high:g} {header.intensity.unit}".rstrip())
    return " · ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def choose(
    rows: list[CaseRow], options: PreviewOptions, findings: npt.NDArray[np.bool_] | None = None
) -> list[ShownSlice]:
    """At most `limit` slices, spread evenly over cases and within each; those with a finding (per slice) come first."""
    rows = [row for row in rows if options.split in (None, row.split) and row.count]
    if not rows:
        return []
    if len(rows) > options.limit:
        rows = [rows[index] for index in _spread(len(rows), options.limit)]
    each = options.limit // len(rows)
    spots = []
    for row in rows:
        places = np.arange(row.count)
        if findings is not None:
            with_finding = places[findings[row.start : row.start + row.count]]
            places = with_finding if len(with_finding) >= each else places
            if 0 < len(with_finding) < each:
                places = np.sort(np.concatenate([with_finding, _others(places, with_finding, each)]))
        for place in places[_spread(len(places), min(each, len(places)))]:
            spots.append(ShownSlice(row, int(place), row.start + int(place)))
    return spots


def _others(places: npt.NDArray[np.int_], taken: npt.NDArray[np.int_], each: int) -> npt.NDArray[np.int_]:
    """Slices without a finding that fill a case's share of the sheet."""
    rest = np.setdiff1d(places, taken)
    return rest[_spread(len(rest), min(each - len(taken), len(rest)))]


def _spread(total: int, wanted: int) -> npt.NDArray[np.int_]:
    """`wanted` indices below `total`, evenly spaced and centred."""
    return ((np.arange(wanted) + 0.5) * total / max(wanted, 1)).astype(np.int_)


def images_as_shown(images: npt.NDArray[np.generic], intensity: Intensity | None) -> Pixels:
    """(N, C, H, W) -> (N, H, W) grey or (N, H, W, 3) colour, windowed; without a window, over the values there are."""
    if intensity is None:
        finite = images[np.isfinite(images)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        intensity = Intensity(unit="", window=(low, high if high > low else low + 1.0))
    pixels = np.rint((np.nan_to_num(intensity.normalized(images), nan=-1.0) + 1.0) * 127.5).astype(np.uint8)
    shown: Pixels = pixels.transpose(0, 2, 3, 1) if images.shape[1] == 3 else pixels[:, 0]
    return shown


def latents_as_colours(latents: npt.NDArray[np.generic]) -> Pixels:
    """(N, C, h, w) -> (N, h, w, 3): the first three channels, 2.5 standard deviations to either side of their mean."""
    chosen = latents[:, [0, 0, 0] if latents.shape[1] < 3 else [0, 1, 2]].astype(np.float32)
    mean = chosen.mean(axis=(0, 2, 3), keepdims=True)
    deviation = np.maximum(chosen.std(axis=(0, 2, 3), keepdims=True), 1e-6)
    levels = np.clip((chosen - mean) / deviation / 5.0 + 0.5, 0.0, 1.0)
    colours: Pixels = np.rint(levels * 255.0).astype(np.uint8).transpose(0, 2, 3, 1)
    return colours


def mark_of(fields: tuple[str, ...], vector: npt.NDArray[np.float32] | None) -> Mark | None:
    """Where the vector says the finding is: fractions of the picture. None without one."""
    if vector is None or not {"x", "y"} <= set(fields):
        return None
    values = dict(zip(fields, vector.tolist(), strict=True))
    if values.get("has_nodule", 1.0) < 0.5:
        return None
    return Mark(values["x"], values["y"], values.get("size", 0.0))


def captions(spot: ShownSlice, fields: tuple[str, ...], vector: npt.NDArray[np.float32] | None, text: str) -> list[str]:
    """The lines below a tile: which slice, and its condition."""
    case_id = spot.row.id if len(spot.row.id) <= LONGEST_ID else spot.row.id[: LONGEST_ID - 1] + "…"
    lines = [f"{case_id}  slice {spot.slice}" if spot.row.count > 1 else case_id]
    if vector is not None and fields:
        values = dict(zip(fields, vector.tolist(), strict=True))
        if values.get("has_nodule", 1.0) < 0.5:
            lines.append("healthy")
        else:
            told = [f"{_short(name)} {value:.2f}" for name, value in values.items() if name != "has_nodule"]
            lines += [" ".join(told[start : start + 3]) for start in range(0, min(len(told), 6), 3)]
    if text:
        lines.append(text)
    return lines


def _short(name: str) -> str:
    return name if len(name) <= 4 else name[:3]


def tile_size(picture: Pixels, spot: ShownSlice, options: PreviewOptions, kind: str) -> tuple[int, int]:
    """(width, height) of a tile in screen pixels; pixels that are not square are stretched."""
    height, width = picture.shape[:2]
    stretch = 1.0 if kind == "latent" else spot.row.spacing[1] / spot.row.spacing[2]
    scale = options.scale
    if scale is None:
        scale = 192.0 / max(height * stretch, width)
        scale = 1.0 if 0.7 < scale < 1.3 else scale
    return max(1, round(width * scale)), max(1, round(height * stretch * scale))


def resize(picture: Pixels, size: tuple[int, int], *, smooth: bool) -> Pixels:
    """A picture (h, w) or (h, w, 3) at `size` (width, height) on the screen."""
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, how))


def resize_mask(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The outline of a mask on the screen: the pixels just outside it."""
    large = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)) > 0
    padded = np.pad(large, 1)
    near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return near & ~large
