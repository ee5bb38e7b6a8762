"""The lungs of an axial CT slice, by their air."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

LUNG_HU = -320.0  # halfway between lung and soft tissue
CLOSING_MM = 10.0  # takes in vessels, and nodules at the rim up to twice as wide
_LEAST_AREA = 0.002  # of the slice; smaller pockets of air are bowel or skin folds


def without_background(values: npt.NDArray[np.float32], spacing: tuple[float, float]) -> npt.NDArray[np.float32]:
    """(H, W, 1) HU, pixels of `spacing` (y, x) mm -> the same with everything outside the lungs at -1000 HU.

    A slice without lungs becomes air altogether.
    """
    inside = lungs(values[:, :, 0], spacing)
    return np.where(inside[:, :, None], values, np.float32(-1000.0))


def lungs(hu: npt.NDArray[np.float32], spacing: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """(H, W) HU -> where the lungs are, with their vessels and nodules: air that does not touch the border, closed."""
    labels, count = ndimage.label(hu < LUNG_HU)
    rim = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= _LEAST_AREA * hu.size
    keep[rim] = False
    keep[0] = False
    found = keep[labels]
    if not found.any():
        return found
    # A closing by distances: exact in mm for any pixel, and quicker than with a large disk.
    margin = int(np.ceil(CLOSING_MM / min(spacing))) + 1
    grown = ndimage.distance_transform_edt(~np.pad(found, margin), sampling=spacing) <= CLOSING_MM
    closed = ndimage.distance_transform_edt(grown, sampling=spacing) > CLOSING_MM
    inner = closed[margin:-margin, margin:-margin] | found
    return np.asarray(ndimage.binary_fill_holes(inner), dtype=bool)
