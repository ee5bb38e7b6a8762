"""Which lesions a map finds: connected parts of the mask, each with the highest threshold that finds it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_ALL_NEIGHBOURS = np.ones((3, 3), int)


@dataclass(frozen=True)
class FoundLesion:
    """A lesion of `area` pixels; enough of it is marked at a threshold of `code` or lower."""

    area: int
    code: int


def lesions_of(mask: npt.NDArray[np.bool_], codes: npt.NDArray[np.uint16], overlap: float) -> list[FoundLesion]:
    """The lesions of a mask (H, W), pixels that touch by side or corner; found where `overlap` of the area is marked.

    `codes` (H, W) rank the pixels by score; pixels of the threshold's own code are marked.
    """
    parts, count = ndimage.label(mask, _ALL_NEIGHBOURS)
    found = []
    for number in range(1, count + 1):
        inside = codes[parts == number]
        needed = max(1, ceil(overlap * inside.size))
        found.append(FoundLesion(inside.size, int(np.partition(inside, inside.size - needed)[inside.size - needed])))
    return found
