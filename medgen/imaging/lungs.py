"""The lungs of an axial CT slice, by their air."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

LUNG_HU = -320.0  # halfway between lung and soft tissue
_CLOSING = 9  # pixels: bridges vessels and nodules at the rim of a lung
_LEAST_AREA = 0.002  # of the slice; smaller pockets of air are bowel or skin folds


def without_background(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(H, W, 1) HU -> the same with everything outside the lungs at -1000 HU (all of it where there is no lung)."""
    inside = lungs(values[:, :, 0])
    return np.where(inside[:, :, None], values, np.float32(-1000.0))


def lungs(hu: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(H, W) HU -> where the lungs are, with their vessels and nodules: air that does not touch the border."""
    air = hu < LUNG_HU
    labels, count = ndimage.label(air)
    if not count:
        return np.zeros(hu.shape, dtype=bool)
    rim = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    keep = areas >= _LEAST_AREA * hu.size
    keep[rim] = False
    keep[0] = False
    found = keep[labels]
    disk = np.hypot(*np.ogrid[-_CLOSING : _CLOSING + 1, -_CLOSING : _CLOSING + 1]) <= _CLOSING
    padded = np.pad(found, _CLOSING)  # closing must not eat at the border
    closed = ndimage.binary_closing(padded, disk)[_CLOSING:-_CLOSING, _CLOSING:-_CLOSING]
    return np.asarray(ndimage.binary_fill_holes(closed), dtype=bool)
