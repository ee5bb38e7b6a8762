"""Which nodules a chest gets, and where in its lungs."""

from __future__ import annotations

import dataclasses

import numpy as np

from medgen.phantoms.chest.anatomy import ChestAnatomy
from medgen.phantoms.chest.nodules import Nodule

Point = tuple[float, float, float]


def add_nodules(
    rng: np.random.Generator,
    anatomy: ChestAnatomy,
    count: int,
    diameters: tuple[float, float],
    z_range: tuple[float, float],
    textures: tuple[float, float] = (1.0, 5.0),
) -> ChestAnatomy:
    """The same chest with up to `count` nodules whose centres lie between the z of `z_range` (mm).

    Most lie free in the lung, some touch the pleura and some sit on a vessel. They do not overlap. Half of them are
    solid, as far as the `textures` allow.
    """
    placed: list[Nodule] = []
    for _ in range(count):
        diameter = float(np.exp(rng.uniform(*np.log(diameters))))
        centre = _place(rng, anatomy, 0.5 * diameter, z_range, placed)
        if centre is None:
            continue
        share = np.log(diameter / diameters[0]) / max(np.log(diameters[1] / diameters[0]), 1e-6)
        malignancy = _rating(0.75 * rng.uniform(1.0, 5.0) + 0.25 * (1.0 + 4.0 * share))
        texture = _rating(rng.uniform(4.4, 5.1) if rng.random() < 0.5 else rng.uniform(*textures))
        texture = float(np.clip(texture, *textures))
        placed.append(Nodule.draw(rng, centre, diameter, malignancy, texture))
    return dataclasses.replace(anatomy, nodules=tuple(placed))


def _rating(value: float) -> float:
    """The mean of four readers' ratings, 1 to 5."""
    return float(np.clip(np.round(4.0 * value) / 4.0, 1.0, 5.0))


def _place(
    rng: np.random.Generator, anatomy: ChestAnatomy, radius: float, z_range: tuple[float, float], placed: list[Nodule]
) -> Point | None:
    """A centre for a nodule; None if no room is left."""
    shapes = anatomy.shapes
    low, high = z_range
    margin = min(0.6 * radius, 0.3 * (high - low))
    many = 6000
    x = rng.uniform(-1.0, 1.0, many) * shapes.cavity_x * 1.05
    y = rng.uniform(-1.0, 1.0, many) * shapes.cavity_y * 1.05
    z = rng.uniform(low + margin, high - margin, many)
    depth = -np.asarray(shapes.lungs(x, y, z))
    kind = rng.choice(["free", "pleural", "vessel"], p=[0.6, 0.2, 0.2])
    free = depth > 0
    for other in placed:
        distance = np.sqrt((x - other.centre[0]) ** 2 + (y - other.centre[1]) ** 2 + (z - other.centre[2]) ** 2)
        free &= distance > _clearance(radius, other)
    if not free.any():
        return None
    good = free & (depth > 1.15 * radius)
    if kind == "pleural":
        good = free & (depth > 0.35 * radius) & (depth < 0.9 * radius)
    if not good.any():  # a large nodule in a narrow lung: put it where there is most room
        good = free & (depth >= np.quantile(depth[free], 0.95))
    index = int(np.flatnonzero(good)[0])
    centre = (float(x[index]), float(y[index]), float(z[index]))
    if kind == "vessel":
        return _beside_vessel(anatomy, centre, radius, z_range, placed)
    return centre


def _beside_vessel(
    anatomy: ChestAnatomy, centre: Point, radius: float, z_range: tuple[float, float], placed: list[Nodule]
) -> Point:
    """The centre moved so that the nodule touches the nearest larger vessel; unmoved where that is not a good place."""
    tubes = anatomy.vessels.lung
    middles = 0.5 * (tubes.start + tubes.end)[tubes.radius_start > 0.9].astype(np.float64)
    start = np.asarray(centre)
    gap = middles - start
    nearest = gap[np.argmin((gap**2).sum(axis=1))]
    length = float(np.linalg.norm(nearest))
    moved = start + nearest * max(0.0, 1.0 - 0.9 * radius / max(length, 1e-6))
    inside = z_range[0] <= moved[2] <= z_range[1] and -float(anatomy.shapes.lungs(*moved)) > radius
    if not inside or any(np.linalg.norm(moved - other.centre) < _clearance(radius, other) for other in placed):
        return centre
    return (float(moved[0]), float(moved[1]), float(moved[2]))


def _clearance(radius: float, other: Nodule) -> float:
    """Least distance between the centres of two nodules."""
    return 1.3 * (radius + 0.5 * other.diameter) + 4.0
