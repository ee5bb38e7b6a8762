"""Space-filling branching trees: vessels and airways that feed a cloud of end points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medgen.phantoms.primitives import Tubes

MURRAY = 1.0 / 2.8  # flow splits so that radius^2.8 is conserved at a fork (between Murray's 3 and area's 2)
PIECE = 9.0  # mm, length of the straight pieces of a branch

Points = npt.NDArray[np.float64]


def grow(
    rng: np.random.Generator, root: npt.ArrayLike, targets: Points, leaf_radius: float, reach: float = 0.42
) -> Tubes:
    """A tree from `root` (x, y, z) to all `targets` (N, 3).

    At each fork the end points are split in two across the direction in which they spread most, and either branch runs
    `reach` of the way to the middle of its own. A branch that feeds n end points has radius `leaf_radius` * n^(1/2.8).
    All branches of one generation are computed together.
    """
    points, first = targets, np.array([0])  # the end points, group by group, and where each group begins
    place = np.asarray(root, np.float64)[None, :]  # (G, 3) where each group's branch begins
    radius = np.array([leaf_radius * len(targets) ** MURRAY])
    branches: list[tuple[Points, Points, Points, Points]] = []
    while len(first):
        count = np.diff(first, append=len(points))
        middle = np.add.reduceat(points, first) / count[:, None]
        own = leaf_radius * count**MURRAY
        single = count == 1
        node = np.where(single[:, None], middle, place + reach * (middle - place))
        branches.append((place, node, np.minimum(radius, 1.15 * own), np.where(single, 0.55 * leaf_radius, own)))
        group = np.repeat(np.arange(len(count)), count)
        forks = ~single
        points, group = points[forks[group]], (np.cumsum(forks) - 1)[group[forks[group]]]
        count, middle, node, own = count[forks], middle[forks], node[forks], own[forks]
        if not len(count):
            break
        start = np.cumsum(count) - count
        spread = points - middle[group]
        scatter = np.add.reduceat(spread[:, :, None] * spread[:, None, :], start)
        main = np.linalg.eigh(scatter)[1][:, :, 2]  # (G, 3)
        largest = np.abs(main).argmax(axis=1)
        main *= np.sign(main[np.arange(len(main)), largest])[:, None]  # eigenvectors have no sign of their own
        points = points[np.lexsort(((spread * main[group]).sum(axis=1), group))]
        share = np.clip((rng.uniform(0.3, 0.7, len(count)) * count).astype(np.intp), 1, count - 1)
        first = np.stack([start, start + share], axis=1).reshape(-1)
        place, radius = np.repeat(node, 2, axis=0), np.repeat(own, 2)
    starts, ends, r0, r1 = (np.concatenate(parts) for parts in zip(*branches, strict=True))
    return _bend(rng, starts, ends, r0, r1)


def _bend(rng: np.random.Generator, start: Points, end: Points, r0: Points, r1: Points) -> Tubes:
    """Every branch by short straight pieces that swerve a little."""
    length = np.linalg.norm(end - start, axis=1)
    pieces = np.clip(np.rint(length / PIECE), 1, 6).astype(np.intp)
    sway = rng.normal(0.0, 0.05, start.shape) * length[:, None]
    branch = np.repeat(np.arange(len(pieces)), pieces)
    step = np.arange(len(branch)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    before, after = step / pieces[branch], (step + 1) / pieces[branch]

    def at(t: Points) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        place = start[branch] + t[:, None] * (end - start)[branch] + np.sin(np.pi * t)[:, None] * sway[branch]
        radius = r0[branch] + t * (r1 - r0)[branch]
        return place.astype(np.float32), radius.astype(np.float32)

    (from_place, from_radius), (to_place, to_radius) = at(before), at(after)
    return Tubes(from_place, to_place, from_radius, to_radius)
