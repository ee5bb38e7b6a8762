"""From values to pictures; the caller chooses which values are black and white."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medgen.evaluation.section import Panel


def picture(image: npt.ArrayLike, caption: str, *, black: float, white: float) -> Panel:
    """An image (C, H, W), with values beyond `black` and `white` clipped; NaN is black.

    Three bands are red, green and blue; otherwise the first is shown.
    """
    bands = (np.asarray(image, np.float64) - black) / (white - black)
    levels = np.rint(np.nan_to_num(bands, nan=0.0).clip(0, 1) * 255).astype(np.uint8)
    return Panel(np.ascontiguousarray(levels.transpose(1, 2, 0)) if len(levels) == 3 else levels[0], caption)


COLOURS = ((0, 0, 0), (255, 255, 255), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))
"""Of background and classes: after white, those that colour-blind people tell apart (Okabe and Ito 2008)."""


def label_picture(labels: npt.NDArray[np.uint8], classes: int, caption: str) -> Panel:
    """A label map (H, W) of `classes` values: the background is black, a single class white, several in colours."""
    palette = np.array(COLOURS if classes == 2 else (COLOURS[0], *COLOURS[2:]), np.uint8)
    place = np.where(labels == 0, 0, 1 + (labels.astype(np.int64) - 1) % (len(palette) - 1))
    return Panel(palette[place], caption)
