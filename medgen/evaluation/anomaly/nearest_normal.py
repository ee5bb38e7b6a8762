"""For each image the most similar normal training image: what a detector without any model would compare with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Read = Callable[[Rows], npt.NDArray[np.float32]]
"""From slice numbers to images (B, C, H, W) in [-1, 1]."""

BLOCK = 64  # images of either side held at once


def nearest_rows(
    queries: Rows, images: Read, candidates: Rows, training: Read, advance: Callable[[int], object] = lambda n: None
) -> Rows:
    """For each query (N,) the candidate with the least mean squared difference: exact search, block by block."""
    best = np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), BLOCK):
        chosen = slice(start, start + BLOCK)
        x = images(queries[chosen])
        x = x.reshape(len(x), -1)
        least = np.full(len(x), np.inf)
        for first in range(0, len(candidates), BLOCK):
            rows = candidates[first : first + BLOCK]
            y = training(rows).reshape(len(rows), -1)
            # |x - y|^2 without |x|^2, which is the same for all candidates
            distance = (y.astype(np.float64) ** 2).sum(1)[None] - 2.0 * (x @ y.T)
            place = distance.argmin(1)
            value = distance[np.arange(len(x)), place]
            closer = value < least
            least[closer] = value[closer]
            best[chosen][closer] = rows[place[closer]]
        advance(len(x))
    return best
