"""For each image the most similar normal training image, which a detector without a model would compare with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from medgen.evaluation.distances import step_of
from medgen.reporting import Advance, unseen

Rows = npt.NDArray[np.int64]
Read = Callable[[Rows], npt.NDArray[np.float32]]
"""From slice numbers to images (B, C, H, W) in [-1, 1]."""

BLOCK = 64  # images of either side held at once


def nearest_rows(queries: Rows, images: Read, candidates: Rows, training: Read, advance: Advance = unseen) -> Rows:
    """For each query (N,) the candidate with the least mean squared difference: exact search, block by block."""
    best = np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), BLOCK):
        chosen = slice(start, start + BLOCK)
        x = _on_grid(images(queries[chosen]))
        least = np.full(len(x), np.inf)
        for first in range(0, len(candidates), BLOCK):
            rows = candidates[first : first + BLOCK]
            y = _on_grid(training(rows))
            distance = (y**2).sum(1) - 2.0 * (x @ y.T)  # |x - y|^2 less |x|^2, the same for all candidates
            place = distance.argmin(1)
            value = distance[np.arange(len(x)), place]
            closer = value < least
            least[closer] = value[closer]
            best[chosen][closer] = rows[place[closer]]
        advance(len(x))
    return best


def _on_grid(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Images in [-1, 1] as rows (B, pixels), on a grid that keeps sums exact where terms cancel."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    step = step_of(1.0, rows.shape[1])
    return np.asarray(np.rint(rows / step) * step)
