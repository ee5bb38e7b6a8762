"""Draw labelled tiles on one sheet; nothing in it but the pixels, so that the same tiles give the same bytes."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from medgen.visible import visible

BACKGROUND = (17, 20, 24)
TEXT = (226, 230, 234)
FAINT = (150, 158, 166)
MARK = (255, 176, 0)
OUTLINE = (0, 200, 220)
GAP = 8
LINE = 15  # pixels from one line of text to the next
FONT_SIZE = 12

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Mark:
    """A finding: its centre and longest side as fractions of the picture's width (x, size) and height (y)."""

    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Tile:
    """A picture (H, W) or (H, W, 3) as it is shown, what is drawn on it, and the lines below it."""

    picture: npt.NDArray[np.uint8]
    lines: list[str] = field(default_factory=list)
    case: str = ""  # tiles of one case are kept in one row where that suits
    outline: npt.NDArray[np.bool_] | None = None
    mark: Mark | None = None


@dataclass(frozen=True)
class Scale:
    """What colours mean: words, and the colours (256, 3) themselves from low to high."""

    words: str
    colours: npt.NDArray[np.uint8]


def draw_sheet(tiles: list[Tile], title: str, columns: int | None = None, scale: Scale | None = None) -> bytes:
    """The sheet as PNG."""
    font, bold = ImageFont.load_default(FONT_SIZE), ImageFont.load_default(FONT_SIZE + 3)
    columns = min(columns or default_columns(tiles), len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width = max(tile.picture.shape[1] for tile in tiles)
    height = max(tile.picture.shape[0] for tile in tiles)
    lines = max(len(tile.lines) for tile in tiles)
    cell = (width + GAP, height + GAP + LINE * lines + 4)
    legend = _legend(tiles, scale)
    head = GAP + 22 + (LINE + 3 if legend else 0)
    room = max(columns * cell[0] + GAP, 360)
    sheet = Image.new("RGB", (room, head + rows * cell[1] + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP - 2), _fitted(draw, title, bold, room - 2 * GAP), TEXT, bold)
    if legend:
        draw.text((GAP, GAP + 19), legend, FAINT, font)
    if scale:
        bar = np.repeat(scale.colours[None, ::2], FONT_SIZE - 2, axis=0)
        sheet.paste(Image.fromarray(bar), (2 * GAP + round(draw.textlength(legend, font)), GAP + 21))
    for number, tile in enumerate(tiles):
        left, top = GAP + number % columns * cell[0], head + number // columns * cell[1]
        sheet.paste(_drawn(tile), (left, top))
        for index, line in enumerate(tile.lines):
            place = (left, top + tile.picture.shape[0] + 2 + index * LINE)
            draw.text(place, _fitted(draw, line, font, width), FAINT if index else TEXT, font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def default_columns(tiles: list[Tile]) -> int:
    """Columns that make a sheet somewhat wider than high, and do not break cases that have equally many tiles."""
    columns = max(1, min(8, round(math.sqrt(1.7 * len(tiles)))))
    runs = {len(list(run)) for _, run in itertools.groupby(tiles, key=lambda tile: tile.case)}
    each = runs.pop() if len(runs) == 1 else 1
    return each * max(1, round(columns / each)) if 1 < each <= 8 else columns


def _legend(tiles: list[Tile], scale: Scale | None) -> str:
    parts = []
    if any(tile.mark is not None for tile in tiles):
        parts.append("corners: where the condition puts the finding")
    if any(tile.outline is not None and tile.outline.any() for tile in tiles):
        parts.append("line: mask")
    if scale:
        parts.append(scale.words)
    return " · ".join(parts)


def _drawn(tile: Tile) -> Image.Image:
    pixels = tile.picture if tile.picture.ndim == 3 else np.repeat(tile.picture[:, :, None], 3, axis=2)
    if tile.outline is not None:
        pixels = np.where(tile.outline[:, :, None], np.array(OUTLINE, np.uint8), pixels)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if tile.mark is not None:
        _corners(ImageDraw.Draw(picture), tile.mark, picture.size)
    return picture


def _corners(draw: ImageDraw.ImageDraw, mark: Mark, size: tuple[int, int]) -> None:
    """The four corners of a box a little larger than the finding, so that it is not covered."""
    x, y = mark.x * size[0], mark.y * size[1]
    half = max(0.5 * mark.size * size[0] + 4.0, 7.0)
    arm = min(max(3.0, 0.4 * half), 10.0)
    for side_x in (-1, 1):
        for side_y in (-1, 1):
            corner = (x + side_x * half, y + side_y * half)
            draw.line([(corner[0] - side_x * arm, corner[1]), corner, (corner[0], corner[1] - side_y * arm)], MARK, 1)


def _fitted(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """The text, cut to `width` pixels."""
    text = visible(" ".join(text.split()))
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
