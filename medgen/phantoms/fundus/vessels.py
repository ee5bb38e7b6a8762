"""Arteries and veins of the retina: trunks that leave the disc along the arcades, and their branches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medgen.phantoms.outlines import Points, smooth_line
from medgen.phantoms.primitives import Tubes
from medgen.phantoms.vessel_tree import MURRAY

STEP = 0.25  # mm, length of the straight pieces
THINNEST = 0.021  # mm, radius of the finest vessels
AVASCULAR = 0.55  # mm around the fovea without vessels

# Trunks of a right eye above the disc, mm from its middle; those below are mirrored. Radii relative to the widest.
TEMPORAL = ((0, 0), (-0.2, -0.9), (-1.0, -2.0), (-2.6, -2.9), (-4.6, -3.1), (-6.6, -2.6), (-8.4, -1.6), (-10, -0.8))
NASAL = ((0, 0), (0.25, -0.8), (1.0, -1.9), (2.2, -3.2), (3.6, -4.8), (5.0, -7.0))
MACULAR = ((0, 0), (-0.8, -0.25), (-1.8, -0.6), (-2.8, -0.8), (-3.5, -0.6))
UPRIGHT = ((0, 0), (-0.1, -1.0), (0.2, -2.4), (-0.1, -4.0), (0.1, -6.5))
INNER = ((0, 0), (0.9, -0.25), (2.2, -0.7), (3.8, -1.0), (5.5, -1.6))
TRUNKS = ((TEMPORAL, 1.0), (NASAL, 0.72), (UPRIGHT, 0.5), (INNER, 0.5), (MACULAR, 0.38))

Inside = Callable[[float, float], bool]


@dataclass(frozen=True)
class Branch:
    """A line and its radii."""

    points: Points  # (N, 2) mm, the fovea at 0
    radii: Points  # (N,)


def draw_vessels(
    rng: np.random.Generator, disc: tuple[float, float], inside: Inside, courses: list[Points], radius: float
) -> Tubes:
    """Vessels along `courses` with all their branches, where `inside`; each is joined to the one it leaves."""
    pending: list[tuple[Branch, int]] = []
    for number, course in enumerate(courses):
        wide = radius * TRUNKS[number % len(TRUNKS)][1] * rng.uniform(0.85, 1.1)
        pending.append((Branch(course, np.full(len(course), wide)), 0))
    done: list[Branch] = []
    while pending:
        branch, generation = pending.pop()
        branch = _cut(branch, inside)
        if len(branch.points) < 2:
            continue
        if generation < 4:
            branch, children = _fork(rng, branch, disc, inside, generation)
            pending += [(child, generation + 1) for child in children]
        done.append(branch)
    return Tubes.join([Tubes.path(_flat(branch.points), branch.radii) for branch in done])


def draw_courses(rng: np.random.Generator, disc: tuple[float, float]) -> list[Points]:
    """The lines that trunks follow, above and below the disc."""
    courses = []
    for mirror in (1.0, -1.0):
        for points, _ in TRUNKS:
            line = np.asarray(points, np.float64) * [1.0, mirror]
            line *= rng.normal(1.0, (0.05, 0.09))
            line[1:] += rng.normal(0.0, 0.13, line[1:].shape) * np.linspace(0.4, 2.0, len(line) - 1)[:, None]
            turn = rng.normal(0.0, 0.10)
            rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
            line = line @ rotation + disc + (0.12, 0.10 * -mirror)
            courses.append(_sway(rng, smooth_line(line)))
    return courses


def beside(rng: np.random.Generator, courses: list[Points]) -> list[Points]:
    """Other lines near the same ones: veins run beside arteries and cross them."""
    near = []
    for course in courses:
        phase, waves = rng.uniform(0.0, 2.0 * np.pi, 2), rng.uniform(0.5, 1.4, 2)
        along = np.linspace(0.0, 2.0 * np.pi, len(course))[:, None]
        sway = rng.normal(0.0, 0.16, 2) + 0.16 * np.sin(waves * along + phase)
        near.append(_sway(rng, course + sway * np.minimum(along, 1.0)))
    return near


def _sway(rng: np.random.Generator, line: Points) -> Points:
    """The line in short pieces, with bends some 2 mm long, none at its beginning."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    place = np.arange(0.0, along[-1], 0.6 * STEP)
    even = np.stack([np.interp(place, along, line[:, axis]) for axis in range(2)], axis=1)
    swerve = np.zeros_like(place)
    for length, most in ((1.2, 0.025), (2.0, 0.05), (3.3, 0.08)):
        swerve += rng.normal(0.0, most) * np.sin(2.0 * np.pi * place / length + rng.uniform(0.0, 2.0 * np.pi))
    ahead = np.gradient(even, axis=0)
    across = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.hypot(*ahead.T)[:, None]
    bent: Points = even + across * (swerve * np.minimum(place / 1.5, 1.0))[:, None]
    return bent


def _cut(branch: Branch, inside: Inside) -> Branch:
    """The branch up to where it leaves the picture."""
    for number, (x, y) in enumerate(branch.points):
        if not inside(x, y):
            return Branch(branch.points[: number + 1], branch.radii[: number + 1])
    return branch


def _fork(
    rng: np.random.Generator, branch: Branch, disc: tuple[float, float], inside: Inside, generation: int
) -> tuple[Branch, list[Branch]]:
    """The branch, thinner after each fork (Murray's law), and what leaves it."""
    points, radii = branch.points, branch.radii.copy()
    lengths = np.hypot(*np.diff(points, axis=0).T)
    side = 1.0 if rng.random() < 0.5 else -1.0
    until_next = rng.uniform(0.5, 1.2)
    children = []
    for place in range(1, len(points) - 1):
        until_next -= lengths[place]
        if until_next > 0 or radii[place] < 1.15 * THINNEST:
            continue
        until_next = rng.uniform(0.35, 1.3)
        side = -side if rng.random() < 0.75 else side
        wide = radii[place] * rng.uniform(0.4, 0.72)
        if wide < THINNEST:
            continue
        radii[place + 1 :] = max(radii[place] ** (1 / MURRAY) - wide ** (1 / MURRAY), 1e-9) ** MURRAY
        ahead = points[place + 1] - points[place - 1]
        heading = math.atan2(ahead[1], ahead[0]) + side * rng.uniform(0.5, 1.05)
        child = _wander(rng, points[place], heading, 55.0 * wide * rng.uniform(0.5, 1.3), disc, inside)
        children.append(Branch(child, np.linspace(wide, max(0.7 * wide, THINNEST), len(child))))
    radii *= np.linspace(1.0, 0.9, len(radii))
    return Branch(points, np.maximum(radii, 0.8 * THINNEST)), children


def _wander(
    rng: np.random.Generator, start: Points, heading: float, length: float, disc: tuple[float, float], inside: Inside
) -> Points:
    """A line that swerves away from the disc, or towards the fovea if it set out so, and ends before it."""
    x, y = float(start[0]), float(start[1])
    inwards = -(x * math.cos(heading) + y * math.sin(heading)) > 0 and x < disc[0] - 0.5
    line = [(x, y)]
    sway = 0.0
    for kick in rng.normal(0.0, 0.16, max(2, int(length / STEP))).tolist():
        aim = math.atan2(-y, -x) if inwards else math.atan2(y - 0.3 * disc[1], x - 0.6 * disc[0])
        off = (aim - heading + math.pi) % (2.0 * math.pi) - math.pi
        sway = 0.6 * sway + kick
        heading += 0.12 * off + sway
        x, y = x + STEP * math.cos(heading), y + STEP * math.sin(heading)
        if math.hypot(x, y) < AVASCULAR:
            break
        line.append((x, y))
        if not inside(x, y):
            break
    return np.array(line)


def _flat(points: Points) -> Points:
    """(N, 2) -> (N, 3) in the plane z = 0."""
    return np.concatenate([points, np.zeros((len(points), 1))], axis=1)
