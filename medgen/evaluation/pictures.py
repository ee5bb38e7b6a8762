"""From values to pictures: each caller says which values are black and white."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medgen.evaluation.section import Picture


def picture(image: npt.ArrayLike, caption: str, *, black: float, white: float) -> Picture:
    """An image (C, H, W) with values beyond `black` and `white` cut off; NaN is black.

    Three bands are red, green and blue, else the first is shown.
    """
    bands = (np.asarray(image, np.float64) - black) / (white - black)
    levels = np.rint(np.nan_to_num(bands, nan=0.0).clip(0, 1) * 255).astype(np.uint8)
    return Picture(np.ascontiguousarray(levels.transpose(1, 2, 0)) if len(levels) == 3 else levels[0], caption)
