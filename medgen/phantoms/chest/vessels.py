"""Great vessels, airways, and the vessel trees of the lungs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgen.phantoms.chest.shapes import ChestShapes
from medgen.phantoms.primitives import Tubes
from medgen.phantoms.vessel_tree import grow

Path = list[tuple[float, float, float]]
SPINE_LEVELS = range(-130, 31, 20)  # z where vessels that run along the spine have a node


@dataclass(frozen=True)
class ChestVessels:
    """Tubes by what they carry; radii in mm."""

    aorta: Tubes
    veins: Tubes  # superior vena cava, brachiocephalic and azygos veins
    pulmonary: Tubes  # trunk, main arteries, left atrium
    lung: Tubes  # arteries and veins inside the lungs
    airways: Tubes  # trachea and main bronchi, to the outside of their walls
    bronchi: Tubes
    oesophagus: Tubes

    @staticmethod
    def draw(rng: np.random.Generator, shapes: ChestShapes) -> ChestVessels:
        """A random set of vessels that fits `shapes`."""
        landmarks = Landmarks(
            shapes=shapes,
            trachea=float(shapes.spine_y(0.0)) - 46.0,
            heart=shapes.heart[1],
            arch=rng.uniform(26.0, 36.0),
            wide=rng.uniform(0.88, 1.15),
        )
        airways, bronchi = _airways(rng, landmarks)
        return ChestVessels(
            aorta=_aorta(landmarks),
            veins=_veins(landmarks),
            pulmonary=_pulmonary(landmarks),
            lung=_lung_trees(rng, landmarks),
            airways=airways,
            bronchi=bronchi,
            oesophagus=Tubes.path([*landmarks.along_spine(5.0, -27.0), (6.0, landmarks.trachea + 14.0, 110.0)], 6.5),
        )


@dataclass(frozen=True)
class Landmarks:
    """Reference points for the vessels: y of trachea and heart, z of the aortic arch, and the overall width."""

    shapes: ChestShapes
    trachea: float
    heart: float
    arch: float
    wide: float

    def along_spine(self, x: float, y: float) -> Path:
        """A path up to the arch, at an offset from the vertebral bodies."""
        return [(float(self.shapes.spine_x(z)) + x, float(self.shapes.spine_y(z)) + y, float(z)) for z in SPINE_LEVELS]

    @property
    def hila(self) -> dict[int, tuple[float, float, float]]:
        """Where the pulmonary arteries enter the left (1) and right (-1) lung."""
        return {1: (42.0, self.trachea - 2.0, -2.0), -1: (-42.0, self.trachea - 2.0, -10.0)}


def _aorta(at: Landmarks) -> Tubes:
    """Up from the heart, over the arch with its three branches, and down along the spine."""
    t, h, a = at.trachea, at.heart, at.arch
    down = at.along_spine(22.0, -14.0)
    up = [(17.0, t + 14.0, a + 6.0), (6.0, t - 10.0, a + 10.0), (-9.0, t - 26.0, a)]
    up += [(-16.0, t - 31.0, 8.0), (-12.0, t - 26.0, -18.0), (0.0, h + 2.0, -38.0)]
    radii = [at.wide * radius for radius in [11.5] * len(down) + [12.0, 12.5, 13.5, 15.0, 15.5, 14.5]]
    right = [(-10.0, t - 26.0, a + 2.0), (-14.0, t - 22.0, a + 30.0), (-26.0, t - 14.0, a + 70.0)]
    middle = [(0.0, t - 16.0, a + 8.0), (6.0, t - 12.0, a + 35.0), (14.0, t - 8.0, a + 75.0)]
    left = [(10.0, t, a + 8.0), (20.0, t + 2.0, a + 35.0), (40.0, t - 2.0, a + 70.0)]
    return Tubes.join([Tubes.path(down + up, radii), *map(Tubes.path, (right, middle, left), (6.0, 4.0, 5.0))])


def _veins(at: Landmarks) -> Tubes:
    t, h, a = at.trachea, at.heart, at.arch
    cava = [(-27.0, t - 16.0, 60.0), (-28.0, t - 18.0, 30.0), (-30.0, t - 14.0, 0.0), (-28.0, h + 12.0, -35.0)]
    left = [(-26.0, t - 24.0, a + 26.0), (0.0, t - 34.0, a + 28.0), (30.0, t - 26.0, a + 44.0)]
    azygos = [*at.along_spine(-8.0, -19.0)[:-1], (-20.0, t + 10.0, 26.0), (-27.0, t - 8.0, 26.0)]
    return Tubes.join([Tubes.path(cava, 9.0), Tubes.path(left, 6.0), Tubes.path(azygos, 3.2)])


def _pulmonary(at: Landmarks) -> Tubes:
    t, h, w = at.trachea, at.heart, at.wide
    trunk = [(12.0, h - 8.0, -34.0), (17.0, t - 32.0, -12.0), (20.0, t - 20.0, 2.0)]
    left = [(20.0, t - 20.0, 2.0), (32.0, t - 10.0, 4.0), at.hila[1]]
    right = [(18.0, t - 22.0, -2.0), (0.0, t - 16.0, -10.0), (-22.0, t - 11.0, -10.0), at.hila[-1]]
    atrium = [(-26.0, t + 2.0, -36.0), (2.0, t + 2.0, -36.0), (28.0, t + 2.0, -34.0)]
    return Tubes.join(
        [
            Tubes.path(trunk, 13.0 * w),
            Tubes.path(left, [12.0 * w, 10.5 * w, 7.0]),
            Tubes.path(right, [11.0 * w, 10.5 * w, 9.0 * w, 7.0]),
            Tubes.path(atrium, [8.0, 17.0 * w, 8.0]),
        ]
    )


def _lung_trees(rng: np.random.Generator, at: Landmarks) -> Tubes:
    """An artery and a vein tree in each lung."""
    trees = []
    for side in (1, -1):
        vein = (34.0 * side, at.trachea + 2.0, -35.0)
        trees.append(grow(rng, at.hila[side], _targets(rng, at.shapes, side, 400), 0.70))
        trees.append(grow(rng, vein, _targets(rng, at.shapes, side, 280), 0.68))
    return Tubes.join(trees)


def _airways(rng: np.random.Generator, at: Landmarks) -> tuple[Tubes, Tubes]:
    """Trachea with main bronchi, and the bronchi that are wide enough to be seen."""
    t, w = at.trachea, at.wide
    fork = (0.0, t, 0.0)
    airways = [Tubes.path([(1.0, t - 16.0, 150.0), (2.0, t - 8.0, 60.0), (1.0, t - 1.0, 18.0), fork], 9.5 * w)]
    bronchi = []
    for side, gate in ((1, (34.0, t + 8.0, -22.0)), (-1, (-32.0, t + 7.0, -17.0))):
        airways.append(Tubes.path([fork, gate], [8.0 * w, 6.4 * w]))
        tree = grow(rng, gate, _targets(rng, at.shapes, side, 70), 1.05)
        bronchi.append(tree.select(tree.radius_end > 1.5))
    return Tubes.join(airways), Tubes.join(bronchi)


def _targets(rng: np.random.Generator, shapes: ChestShapes, side: int, count: int) -> npt.NDArray[np.float64]:
    """Uniformly random places in one lung, none close to its surface: (count, 3)."""
    found = np.empty((0, 3))
    while len(found) < count:
        x = side * rng.uniform(8.0, shapes.cavity_x * 1.05, 4000)
        y = rng.uniform(-shapes.cavity_y, shapes.cavity_y, 4000) * 1.05
        z = rng.uniform(-150.0, shapes.apex, 4000)
        found = np.concatenate([found, np.stack([x, y, z], axis=1)[shapes.lungs(x, y, z) < -6.0]])
    return found[:count]
