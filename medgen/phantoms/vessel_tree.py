"""Space-filling branching trees: vessels and airways that feed a cloud of end points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medgen.phantoms.primitives import Tubes

MURRAY = 1.0 / 2.8  # flow splits so that radius^2.8 is conserved at a fork (between Murray's 3 and area's 2)


def grow(
    rng: np.random.Generator,
    root: npt.ArrayLike,
    targets: npt.NDArray[np.float64],
    leaf_radius: float,
    reach: float = 0.42,
) -> Tubes:
    """A tree from `root` (x, y, z) to all `targets` (N, 3).

    At each fork the end points are split in two across the direction in which they spread most, and either branch runs
    `reach` of the way to the middle of its own. A branch that feeds n end points has radius `leaf_radius` * n^(1/2.8).
    """
    segments: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float, float]] = []
    pending = [(np.asarray(root, np.float64), targets, leaf_radius * len(targets) ** MURRAY)]
    while pending:
        place, points, radius = pending.pop()
        if len(points) == 1:
            _bend(rng, segments, place, points[0], radius, 0.55 * leaf_radius)
            continue
        middle = points.mean(axis=0)
        node = place + reach * (middle - place)
        own = leaf_radius * len(points) ** MURRAY
        _bend(rng, segments, place, node, min(radius, own * 1.15), own)
        spread = points - middle
        _, vectors = np.linalg.eigh(spread.T @ spread)
        main = vectors[:, 2]
        along = spread @ (main * np.sign(main[np.abs(main).argmax()]))  # eigenvectors have no sign of their own
        cut = np.quantile(along, rng.uniform(0.3, 0.7))
        left = along <= cut
        if left.all() or not left.any():
            left = np.arange(len(points)) < len(points) // 2
        pending.append((node, points[left], own))
        pending.append((node, points[~left], own))
    starts, ends, r0, r1 = zip(*segments, strict=True)
    return Tubes(
        np.asarray(starts, np.float32),
        np.asarray(ends, np.float32),
        np.asarray(r0, np.float32),
        np.asarray(r1, np.float32),
    )


def _bend(
    rng: np.random.Generator,
    segments: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float, float]],
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    r0: float,
    r1: float,
) -> None:
    """Append start -> end by short pieces that swerve a little."""
    length = float(np.linalg.norm(end - start))
    pieces = max(1, min(6, round(length / 9.0)))
    sway = rng.normal(0.0, 0.05 * length, 3)
    before = start
    for step in range(1, pieces + 1):
        t = step / pieces
        after = start + t * (end - start) + np.sin(np.pi * t) * sway
        segments.append((before, after, r0 + (r1 - r0) * (step - 1) / pieces, r0 + (r1 - r0) * t))
        before = after
