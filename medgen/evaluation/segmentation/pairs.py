"""Pairs of images and label maps, read from sets at the size at which the segmenter sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.artifacts.label_maps import mask_names, told
from medgen.artifacts.stored import CaseRow, StoredSet
from medgen.errors import DataError
from medgen.evaluation.comparability import image_shape
from medgen.evaluation.inputs import slice_names
from medgen.reporting import Advance, unseen

Rows = npt.NDArray[np.int64]
BATCH = 64


@dataclass(frozen=True)
class Pairs:
    """Images and their label maps."""

    images: Tensor
    """(N, C, H, W) in [-1, 1]."""
    labels: Tensor
    """(N, H, W) uint8, values of `names`."""
    cases: Rows
    """(N,) number of the case in its set."""
    slices: Rows
    """(N,) its number in the set."""
    keys: tuple[str, ...]
    """Its name."""
    pixels: npt.NDArray[np.float64]
    """(N, 2) height and width of a pixel, in pixels of the stored image."""
    spacing: npt.NDArray[np.float64] | None
    """(N, 2) mm from one stored pixel to the next, down and across; None unless known for all."""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: Rows) -> Pairs:
        """Some of them, in the order asked for."""
        places = torch.from_numpy(rows)
        keys = tuple(self.keys[row] for row in rows)
        spacing = None if self.spacing is None else self.spacing[rows]
        return Pairs(
            self.images[places],
            self.labels[places],
            self.cases[rows],
            self.slices[rows],
            keys,
            self.pixels[rows],
            spacing,
        )


def read_pairs(stored: StoredSet, rows: Rows, side: int, advance: Advance = unseen) -> Pairs:
    """Slices of an image set with their masks, their longest side at most `side` pixels.

    Images are averaged over areas; masks take the class at each pixel's centre. Images that are not finite are left
    out. DataError for classes without a name.
    """
    intensity, names = stored.header.intensity, mask_names(stored.header)
    if intensity is None:
        raise DataError("the set does not say what its image values mean (no intensity); preprocess it again")
    height, width = image_shape(stored)[1:]
    size = seen_size(height, width, side)
    keys = slice_names(stored)
    images, labels, kept = [], [], []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        values = torch.from_numpy(intensity.normalized(stored.read("image", part)))
        finite = torch.isfinite(values).flatten(1).all(dim=1)
        advance(len(part))
        if not finite.any():
            continue
        values, part = values[finite], part[finite.numpy()]
        masks = stored.read("mask", part)
        if masks.shape[1] != 1:
            raise DataError(f"the masks have {masks.shape[1]} channels, expected one; preprocess them again")
        wrong = np.flatnonzero(masks.max(axis=(1, 2, 3), initial=0) >= len(names))
        if len(wrong):
            value = int(masks[wrong[0]].max())
            raise DataError(f"the mask of {keys[part[wrong[0]]]} holds {value}, which is not a class; {told(names)}")
        images.append(F.interpolate(values, size, mode="area") if size != (height, width) else values)
        labels.append(F.interpolate(torch.from_numpy(masks), size, mode="nearest-exact")[:, 0])
        kept.append(part)
    if not kept:
        raise DataError("all images hold NaN or infinity: there is no pair to look at")
    found = np.concatenate(kept)
    cases = np.repeat(np.arange(len(stored.cases)), [row.count for row in stored.cases])[found]
    spacing = np.array([stored.cases[case].spacing[1:] for case in cases], np.float64)
    known = all(is_measured(stored.cases[case]) for case in np.unique(cases))
    return Pairs(
        torch.cat(images),
        torch.cat(labels),
        cases,
        found,
        tuple(keys[row] for row in found),
        np.tile([height / size[0], width / size[1]], (len(found), 1)),
        spacing if known else None,
    )


def is_measured(row: CaseRow) -> bool:
    """Whether the spacing of a case is in mm. Pictures have none: their pixels count as 1 mm, however resized later.

    Of these, neither the distance of slices (1 mm stands for none) nor a thickness or a frame of reference is known.
    """
    return row.spacing[0] != 1.0 or row.thickness > 0 or row.frame != ""


def seen_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Rows and columns at which the segmenter sees images."""
    shrink = max(height, width, side) / side
    return max(round(height / shrink), 1), max(round(width / shrink), 1)
