"""The closest pairs of images: as numbers, and side by side with their difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.evaluation.inputs import slice_names
from medgen.evaluation.memorization.declaration import MemorizationOptions
from medgen.evaluation.memorization.nearest_images import FLIPS, Collection, Matches, compared_size
from medgen.evaluation.pictures import picture
from medgen.evaluation.section import Gallery


@dataclass(frozen=True)
class PairSource:
    """Queries, the gallery they were compared with, and what was found; in words: `title` and what the gallery is."""

    title: str
    what: str
    queries: Collection
    gallery: Collection
    found: Matches


def gallery(
    source: PairSource, least: float, threshold: float, options: MemorizationOptions
) -> tuple[list[dict[str, Any]], Gallery]:
    """The closest pairs as JSON values, and as pictures: the image, the other aligned to it, their difference."""
    found = source.found
    relative = found.relative(least)
    ours, theirs = slice_names(source.queries.stored), slice_names(source.gallery.stored)
    flips = list(FLIPS)
    pairs, rows, seen = [], [], set[frozenset[str]]()
    for row in np.argsort(relative, kind="stable"):
        name = ours[source.queries.features.slices[row]]
        other = theirs[source.gallery.features.slices[found.row[row]]]
        if source.queries is source.gallery:  # a is nearest to b, and b to a: once is enough
            if frozenset((name, other)) in seen:
                continue
            seen.add(frozenset((name, other)))
        copy = bool(relative[row] < threshold)
        pairs.append(
            {
                "image": name,
                "nearest": other,
                "relative_distance": float(relative[row]),
                "distance": float(found.distance[row]),
                "mirrored": flips[found.flip[row]],
                "shift": found.shift[row].tolist(),
                "copy": copy,
            }
        )
        image, laid = _laid(source, int(row), options)
        difference = (image - laid).abs()
        largest = max(float(difference.max()), 1e-12)
        found_as = f"{name}: {'copy, ' if copy else ''}relative distance {relative[row]:.3f}"
        rows.append(
            [
                picture(image, found_as, black=-1, white=1),
                picture(laid, f"{source.what} {other}{_moved(pairs[-1])}", black=-1, white=1),
                picture(difference, f"difference, white = {largest / 2:.2g} of the window", black=0, white=largest),
            ]
        )
        if len(pairs) == options.pairs:
            break
    note = "The other image is mirrored and shifted to the best fit; black lies outside it."
    return pairs, Gallery(f"Samples {source.title}", rows, note)


def _laid(source: PairSource, row: int, options: MemorizationOptions) -> tuple[Tensor, Tensor]:
    """The query and its nearest image aligned to it, both (C, H, W) in [-1, 1] at the query's size."""
    found = source.found
    image = source.queries.images(np.array([row]))[0]
    other = source.gallery.images(found.row[row : row + 1])
    height, width = image.shape[-2:]
    if other.shape[-2:] != image.shape[-2:]:
        other = F.interpolate(other, (height, width), mode="bilinear", antialias=True)
    small = compared_size(source.queries, options.side)
    down = round(int(found.shift[row, 0]) * height / small[0])
    right = round(int(found.shift[row, 1]) * width / small[1])
    moved = torch.full_like(other[0], -1)
    moved[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = other[
        0, :, max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    axes = FLIPS[list(FLIPS)[found.flip[row]]]
    return image, moved.flip(axes) if axes else moved


def _moved(pair: dict[str, Any]) -> str:
    parts = [] if pair["mirrored"] == "none" else [f"mirrored {pair['mirrored']}"]
    parts += [f"moved by {pair['shift'][0]}, {pair['shift'][1]}"] if any(pair["shift"]) else []
    return f" ({', '.join(parts)})" if parts else ""
