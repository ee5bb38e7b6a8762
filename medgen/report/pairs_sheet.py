"""The closest pairs of samples and training images as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from medgen.errors import UsageError
from medgen.evaluation.results import Evaluated
from medgen.evaluation.section import Panel
from medgen.imaging.pictures.contact_sheet import Tile, draw_sheet

SIDE = 160
"""Smaller pictures are enlarged by whole numbers to about this many pixels."""
LETTERS = 24
"""Of a caption in a line below a picture of that side."""
METRIC = "memorization"


def pairs_sheet(results: Sequence[Evaluated]) -> bytes:
    """Two pairs per row, sets below each other; UsageError where memorization was not measured."""
    tiles, columns = [], 0
    for one in results:
        for section in one.sections:
            for gallery in section.galleries if section.name == METRIC else []:
                for row in gallery.rows:
                    tiles += [_tile(picture, one.name if len(results) > 1 else "") for picture in row]
                    columns = 2 * len(row)
    if not tiles:
        raise UsageError("--pairs shows what memorization found: give --training and --reference")
    return draw_sheet(tiles, f"closest pairs of {', '.join(one.name for one in results)}", columns)


def _tile(picture: Panel, name: str) -> Tile:
    factor = max(1, SIDE // max(picture.pixels.shape[:2]))
    enlarged = np.repeat(np.repeat(picture.pixels, factor, axis=0), factor, axis=1)
    lines = textwrap.wrap(picture.caption, max(LETTERS, LETTERS * enlarged.shape[1] // SIDE))
    return Tile(enlarged, [name, *lines] if name else lines)
