"""Patches around known or requested nodules, and their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.artifacts.stored import StoredSet
from medgen.evaluation.inputs import owners
from medgen.nets.perception.features import FixedFeatures
from medgen.reporting import Advance, unseen

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

PATCH = 48
"""Side in pixels to which a patch is resized."""
MARGIN = 2.0
"""Side of the patch over the size of the nodule: its surroundings show spiculation."""
LEAST_SIDE = 8.0
"""Least side of a patch in pixels of the image."""
RINGS = 8


@dataclass(frozen=True)
class NodulePatches:
    """Patches of N slices with a nodule, and what is known or was requested of them."""

    features: Values
    """(N, F) fixed features, of which ratings are learned."""
    rings: Values
    """(N, 2 * RINGS) mean and spread of each ring."""
    ratings: Values
    """(N, K)"""
    sizes: Values
    """(N,)"""
    cases: Rows
    """(N,)"""

    def __getitem__(self, rows: Rows) -> NodulePatches:
        features, rings, ratings = self.features[rows], self.rings[rows], self.ratings[rows]
        return NodulePatches(features, rings, ratings, self.sizes[rows], self.cases[rows])


@torch.inference_mode()
def rate(stored: StoredSet, place: Sequence[str], ratings: Sequence[str], advance: Advance = unseen) -> NodulePatches:
    """Read every slice with a nodule: `place` names the fields has_nodule, x, y, size, `ratings` those to learn."""
    intensity, fields = stored.header.intensity, stored.header.vector_fields
    if intensity is None:
        raise ValueError("an image set says what its values mean")
    vectors = stored.column("vector").astype(np.float64)
    known = vectors[:, [fields.index(name) for name in place]]  # has_nodule, x, y, size
    network = FixedFeatures(scales=3)
    features, rings, kept, cases = [], [], [], []
    for case, row in zip(owners(stored), stored.cases, strict=True):
        for index in range(row.start, row.start + row.count):
            advance(1)
            if known[index, 0] <= 0:
                continue
            image = torch.from_numpy(intensity.normalized(stored.read("image", [index])))
            if not torch.isfinite(image).all():
                continue
            patch = patch_of(image, *known[index, 1:])
            features.append(network.pooled(patch)[0].double().numpy())
            rings.append(rings_of(patch)[0].numpy())
            kept.append(index)
            cases.append(case)
    return NodulePatches(
        np.array(features, np.float64).reshape(len(features), -1),
        np.array(rings, np.float64).reshape(len(rings), -1),
        vectors[kept][:, [fields.index(name) for name in ratings]].reshape(len(kept), len(ratings)),
        known[kept, 3],
        np.array(cases, np.int64),
    )


def patch_of(image: Tensor, x: float, y: float, size: float) -> Tensor:
    """The square around (x, y) of an image (1, C, H, W), (1, C, 48, 48); what lies outside repeats the border.

    x and y are shares of width and height, size is one of the width.
    """
    height, width = image.shape[-2:]
    half = max(MARGIN * size * width, LEAST_SIDE) / 2
    steps = (torch.arange(PATCH, dtype=torch.float64) + 0.5) / PATCH * 2 - 1
    columns = 2 * (x * width + half * steps) / width - 1
    rows = 2 * (y * height + half * steps) / height - 1
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None].to(image.dtype)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def rings_of(patches: Tensor) -> Tensor:
    """Mean and spread of brightness by distance from the middle, (B, 2 * RINGS) float64, of patches (B, C, H, W).

    With so few numbers, some dozens of patches tell flat discs from nodules; hundreds of features would need more.
    """
    height, width = patches.shape[-2:]
    rows, columns = ((torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1 for side in (height, width))
    ring = (torch.hypot(rows[:, None], columns) * RINGS).long()
    values = patches.double().mean(dim=1)
    parts = [values[:, ring == number] for number in range(RINGS)]  # (B, pixels)
    return torch.cat([torch.stack([part.mean(1), part.std(1)], dim=1) for part in parts], dim=1)
