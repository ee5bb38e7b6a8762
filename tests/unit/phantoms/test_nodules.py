"""Nodules look as rated: the margin follows malignancy, the density follows texture, the size is what was asked."""

from __future__ import annotations

import numpy as np
import pytest

from medgen.phantoms.chest.anatomy import ChestAnatomy
from medgen.phantoms.chest.nodule_placement import add_nodules
from medgen.phantoms.chest.nodules import GROUND_GLASS, SOLID, Nodule
from medgen.phantoms.primitives import Grid


def draw(seed: int, malignancy: float = 1.0, texture: float = 5.0, diameter: float = 24.0) -> Nodule:
    return Nodule.draw(np.random.default_rng(seed), (1.0, -2.0, 3.0), diameter, malignancy, texture)


def outline_roughness(nodule: Nodule) -> float:
    """Perimeter squared over area, relative to a disc, of everything above half coverage."""
    cut = nodule.cut(3.0, Grid(161, 0.25), 0.25)
    assert cut is not None
    inside = np.pad(cut.cover > 0.5, 1)
    edges = np.count_nonzero(np.diff(inside, axis=0)) + np.count_nonzero(np.diff(inside, axis=1))
    return float((edges * np.pi / 4) ** 2 / (4 * np.pi * inside.sum()))


def test_benign_is_round_and_malignant_is_rough() -> None:
    benign = [outline_roughness(draw(seed, 1.0)) for seed in range(12)]
    middle = [outline_roughness(draw(seed, 3.0)) for seed in range(12)]
    malignant = [outline_roughness(draw(seed, 5.0)) for seed in range(12)]
    assert max(benign) < 1.15
    assert np.mean(benign) < np.mean(middle) < np.mean(malignant)
    assert np.mean(malignant) > 1.4


def test_texture_sets_the_density() -> None:
    means = []
    for texture in (1.0, 2.0, 3.0, 4.0, 5.0):
        cut = draw(4, texture=texture).cut(3.0, Grid(161, 0.25), 0.25)
        assert cut is not None
        means.append(float(cut.values[cut.body > 0.99].mean()))
    assert means == sorted(means)
    assert means[0] == pytest.approx(GROUND_GLASS, abs=60)
    assert means[-1] == pytest.approx(SOLID, abs=30)


@pytest.mark.parametrize("diameter", [6.0, 20.0, 50.0])
def test_a_benign_nodule_is_as_long_as_asked(diameter: float) -> None:
    for seed in range(5):
        nodule = draw(seed, 1.0, diameter=diameter)
        grid = Grid(301, 0.25)
        extents = []
        for z in np.linspace(3.0 - diameter, 3.0 + diameter, 61):
            cut = nodule.cut(float(z), grid, 0.25)
            if cut is not None and (cut.body > 0.5).any():
                ys, xs = np.nonzero(cut.body > 0.5)
                extents.append(0.25 * (max(np.ptp(xs), np.ptp(ys)) + 1))
        assert 0.75 * diameter < max(extents) < 1.15 * diameter


def test_the_plane_beyond_reach_misses_it_and_the_body_lies_within_the_whole() -> None:
    nodule = draw(1, 5.0)
    grid = Grid(161, 0.5)
    assert nodule.cut(3.0 + nodule.reach + 0.1, grid, 0.5) is None
    cut = nodule.cut(3.0, grid, 0.5)
    assert cut is not None
    assert (cut.cover >= cut.body - 1e-6).all()
    assert cut.cover[0].max() == cut.cover[:, 0].max() == cut.cover[-1].max() == 0  # nothing sticks out of the window


def test_placed_nodules_lie_in_the_lungs_in_range_and_apart() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        anatomy = add_nodules(rng, ChestAnatomy.draw(rng), 3, (6.0, 25.0), (-60.0, 20.0))
        assert len(anatomy.nodules) >= 2
        for nodule in anatomy.nodules:
            assert 6.0 <= nodule.diameter <= 25.0
            assert -60.0 <= nodule.centre[2] <= 20.0
            assert float(anatomy.shapes.lungs(*nodule.centre)) < 0
            assert nodule.malignancy * 4 == round(nodule.malignancy * 4)
            for other in anatomy.nodules:
                if other is not nodule:
                    gap = np.linalg.norm(np.subtract(nodule.centre, other.centre))
                    assert gap > 0.5 * (nodule.diameter + other.diameter)


def test_huge_nodules_still_find_a_place() -> None:
    rng = np.random.default_rng(0)
    anatomy = add_nodules(rng, ChestAnatomy.draw(rng), 1, (50.0, 50.0), (-40.0, 20.0))
    assert len(anatomy.nodules) == 1
