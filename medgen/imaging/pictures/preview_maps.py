"""The six panels of an anomaly map: original, normal version, differences, and the map they add up to."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from medgen.artifacts.schema import MAP_CHANNELS
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.imaging.pictures.contact_sheet import Tile
from medgen.imaging.pictures.options import PreviewOptions
from medgen.imaging.pictures.preview import (
    Pixels,
    ShownSlice,
    captions,
    choose,
    images_as_shown,
    resize,
    resize_mask,
    tile_size,
)

TITLES = {"pixel": "pixels", "gradient": "gradients", "laplacian": "Laplacians", "total": "map"}
PANELS = 2 + len(MAP_CHANNELS)
BRIGHTEST = 99.9
"""Percentile of a channel, over all slices shown, from which on its colour is the brightest."""
# Dark violet to pale yellow, ever lighter, so that it also reads in grey.
_STOPS = ((0, 0, 4), (51, 16, 104), (136, 34, 106), (203, 65, 73), (249, 142, 9), (252, 255, 164))
PALETTE: Pixels = np.stack(
    [
        np.interp(np.linspace(0, len(_STOPS) - 1, 256), range(len(_STOPS)), channel)
        for channel in zip(*_STOPS, strict=True)
    ],
    axis=1,
).astype(np.uint8)
LEGEND = "maps: from 0 to the value below each"


def make_map_tiles(stored: StoredSet, options: PreviewOptions) -> list[Tile]:
    """Six tiles a slice, in the order of the set; a true mask is outlined on the original and on the map."""
    spots = choose(stored.cases, fewer(options))
    if not spots:
        raise DataError(f"no case is in split '{options.split}'" if options.split else "the set holds no case")
    indices = [spot.index for spot in spots]
    header = stored.header
    originals, versions = (
        images_as_shown(stored.read(name, indices), header.intensity) for name in ("image", "normalized")
    )
    maps = stored.read("map", indices)  # (N, 4, H, W)
    highest = np.maximum(np.percentile(maps, BRIGHTEST, axis=(0, 2, 3)), 1e-9)
    masks = stored.read("mask", indices) if options.marks and stored.has("mask") else None
    tiles = []
    for number, spot in enumerate(spots):
        size = tile_size(originals[number], spot, options, header.kind)
        outline = None if masks is None else resize_mask(masks[number].any(axis=0), size)
        lines = [*captions(spot, (), None, ""), told(stored, spot)]
        case = f"{spot.row.id}/{spot.slice}"
        tiles.append(Tile(resize(originals[number], size, smooth=True), lines, case, outline))
        tiles.append(Tile(resize(versions[number], size, smooth=True), ["normal version"], case))
        for channel, name in enumerate(MAP_CHANNELS):
            picture = resize(as_heat(maps[number, channel], highest[channel]), size, smooth=False)
            line = outline if name == "total" else None
            tiles.append(Tile(picture, [TITLES[name], f"0 to {highest[channel]:.3g}"], case, line))
    return tiles


def fewer(options: PreviewOptions) -> PreviewOptions:
    """As many slices as leave room for all panels of each; at least one."""
    return msgspec.structs.replace(options, limit=max(1, options.limit // PANELS))


def told(stored: StoredSet, spot: ShownSlice) -> str:
    """Label and score of a slice, in words."""
    parts = []
    if stored.has("label"):
        label, names = int(stored.column("label")[spot.index]), stored.header.label_names
        parts.append(names[label] if label < len(names) else f"label {label}")
    parts.append(f"score {float(stored.column('score')[spot.index]):.3g}")
    return ", ".join(parts)


def as_heat(values: npt.NDArray[np.float32], highest: float) -> Pixels:
    """(H, W) -> (H, W, 3): 0 and less is the darkest colour, `highest` and more the brightest."""
    levels = np.clip(np.nan_to_num(values) / highest, 0.0, 1.0)
    colours: Pixels = PALETTE[np.rint(levels * 255).astype(np.intp)]
    return colours
