"""Great vessels, airways, and the vessel trees of the lungs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgen.phantoms.chest_shapes import ChestShapes
from medgen.phantoms.primitives import Tubes
from medgen.phantoms.vessel_tree import grow


@dataclass(frozen=True)
class ChestVessels:
    """Tubes by what they carry; radii in mm."""

    aorta: Tubes
    veins: Tubes  # superior vena cava, brachiocephalic and azygos veins
    pulmonary: Tubes  # trunk, main arteries, atrium and its veins
    lung: Tubes  # arteries and veins inside the lungs
    airways: Tubes  # outer walls
    oesophagus: Tubes

    @staticmethod
    def draw(rng: np.random.Generator, shapes: ChestShapes) -> ChestVessels:
        """A random tree for `shapes`."""
        wide = rng.uniform(0.88, 1.15)
        spine = np.array([[shapes.spine_x(z), shapes.spine_y(z)] for z in range(-130, 31, 20)])
        middle = float(shapes.spine_y(0.0)) - 46.0  # y of the trachea
        arch = rng.uniform(26.0, 36.0)
        down = [
            (x + 22.0 - 0.06 * (z + 10.0), y - 14.0, z) for (x, y), z in zip(spine, range(-130, 31, 20), strict=True)
        ]
        hx, hy, _ = shapes.heart
        aorta = [
            *down,
            (17.0, middle + 14.0, arch + 6.0),
            (6.0, middle - 10.0, arch + 10.0),
            (-9.0, middle - 26.0, arch),
            (-16.0, middle - 31.0, 8.0),
            (-12.0, middle - 26.0, -18.0),
            (0.0, hy + 2.0, -38.0),
        ]
        branches = [
            (
                [
                    (-10.0, middle - 26.0, arch + 2),
                    (-14.0, middle - 22.0, arch + 30),
                    (-26.0, middle - 14.0, arch + 70),
                ],
                6.0,
            ),
            ([(0.0, middle - 16.0, arch + 8), (6.0, middle - 12.0, arch + 35), (14.0, middle - 8.0, arch + 75)], 4.0),
            ([(10.0, middle, arch + 8), (20.0, middle + 2.0, arch + 35), (40.0, middle - 2.0, arch + 70)], 5.0),
        ]
        cava = [
            (-27.0, middle - 16.0, 60.0),
            (-28.0, middle - 18.0, 30.0),
            (-30.0, middle - 14.0, 0.0),
            (-28.0, hy + 12.0, -35.0),
        ]
        left_vein = [
            (-26.0, middle - 24.0, arch + 26),
            (0.0, middle - 34.0, arch + 28),
            (30.0, middle - 26.0, arch + 44),
        ]
        azygos = [(shapes.spine_x(z) - 8.0, shapes.spine_y(z) - 19.0, z) for z in range(-120, 21, 20)]
        azygos += [(-20.0, middle + 10.0, 26.0), (-27.0, middle - 8.0, 26.0)]
        trunk = [(12.0, hy - 8.0, -34.0), (17.0, middle - 32.0, -12.0), (20.0, middle - 20.0, 2.0)]
        hilum_left, hilum_right = np.array([42.0, middle - 2.0, -2.0]), np.array([-42.0, middle - 2.0, -10.0])
        left = [(20.0, middle - 20.0, 2.0), (32.0, middle - 10.0, 4.0), tuple(hilum_left)]
        right = [
            (18.0, middle - 22.0, -2.0),
            (0.0, middle - 16.0, -10.0),
            (-22.0, middle - 11.0, -10.0),
            tuple(hilum_right),
        ]
        atrium = [(-26.0, middle + 2.0, -36.0), (2.0, middle + 2.0, -36.0), (28.0, middle + 2.0, -34.0)]
        arteries = [
            grow(rng, hilum, _targets(rng, shapes, side, 210), 0.62)
            for side, hilum in ((1, hilum_left), (-1, hilum_right))
        ]
        roots = ((1, (34.0, middle + 2.0, -34.0)), (-1, (-34.0, middle + 2.0, -36.0)))
        veins = [grow(rng, root, _targets(rng, shapes, side, 150), 0.60) for side, root in roots]
        fork = (0.0, middle, 0.0)
        gate = {1: (34.0, middle + 8.0, -22.0), -1: (-32.0, middle + 7.0, -17.0)}
        trachea = Tubes.path(
            [(1.0, middle - 16.0, 150.0), (2.0, middle - 8.0, 60.0), (1.0, middle - 1.0, 18.0), fork], 9.5 * wide
        )
        airways = [trachea]
        for side in (1, -1):
            airways.append(Tubes.path([fork, gate[side]], [8.0 * wide, 6.4 * wide]))
            tree = grow(rng, gate[side], _targets(rng, shapes, side, 60), 1.35)
            airways.append(tree.select(tree.radius_end > 1.9))
        swallow = [(x * 0.5 + 5.0, y - 27.0, z) for (x, y), z in zip(spine, range(-130, 31, 20), strict=True)]
        swallow.append((6.0, middle + 14.0, 110.0))
        return ChestVessels(
            aorta=Tubes.join(
                [Tubes.path(aorta, _aortic_radii(len(down), wide))] + [Tubes.path(*branch) for branch in branches]
            ),
            veins=Tubes.join([Tubes.path(cava, 9.0), Tubes.path(left_vein, 6.0), Tubes.path(azygos, 3.2)]),
            pulmonary=Tubes.join(
                [
                    Tubes.path(trunk, 13.0 * wide),
                    Tubes.path(left, [12.0 * wide, 10.5 * wide, 7.0]),
                    Tubes.path(right, [11.0 * wide, 10.5 * wide, 9.0 * wide, 7.0]),
                    Tubes.path(atrium, [8.0, 17.0 * wide, 8.0]),
                ]
            ),
            lung=Tubes.join(arteries + veins),
            airways=Tubes.join(airways),
            oesophagus=Tubes.path(swallow, 6.5),
        )


def _aortic_radii(descending: int, wide: float) -> list[float]:
    return [wide * radius for radius in [11.5] * descending + [12.0, 12.5, 13.5, 15.0, 15.5, 14.5]]


def _targets(rng: np.random.Generator, shapes: ChestShapes, side: int, count: int) -> npt.NDArray[np.float64]:
    """`count` points evenly at random in one lung, none close to its surface. (N, 3)"""
    found = np.empty((0, 3))
    while len(found) < count:
        x = side * rng.uniform(8.0, shapes.cavity_x * 1.05, 4000)
        y = rng.uniform(-shapes.cavity_y, shapes.cavity_y, 4000) * 1.05
        z = rng.uniform(-150.0, shapes.apex, 4000)
        found = np.concatenate([found, np.stack([x, y, z], axis=1)[shapes.lungs(x, y, z) < -6.0]])
    return found[:count]
