"""Background masking keeps the lungs with all that is in them, and nothing else."""

from __future__ import annotations

import numpy as np

from medgen.imaging.cases.lungs import lungs, without_background

SPACING = (1.4, 1.4)  # mm


def chest(size: int = 256) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """A body with two lungs, a nodule in one, one at the rim of the other, and a gas bubble: HU, lungs, nodules."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    hu = np.full((size, size), -1000.0, np.float32)
    hu[(x / 0.45) ** 2 + (y / 0.38) ** 2 < 1] = 30.0
    left = ((x + 0.2) / 0.13) ** 2 + (y / 0.24) ** 2 < 1
    right = ((x - 0.2) / 0.13) ** 2 + (y / 0.24) ** 2 < 1
    hu[left | right] = -850.0
    hu[(x - 0.0) ** 2 + (y - 0.3) ** 2 < 0.01**2] = -900.0
    inside = (x + 0.2) ** 2 + y**2 < 0.03**2
    rim = (x - 0.315) ** 2 + y**2 < 0.02**2
    hu[inside | rim] = 40.0
    return hu, left | right, (inside, rim & right)


def test_lungs_are_found_with_their_nodules() -> None:
    hu, truth, nodules = chest()
    found = lungs(hu, SPACING)
    inside, rim = nodules
    assert found[inside].all()
    assert found[rim].mean() > 0.85  # the closing rounds off where the wall is convex
    overlap = (found & truth).sum() / (found | truth).sum()
    assert overlap > 0.93
    masked = without_background(hu[:, :, None], SPACING)[:, :, 0]
    assert (masked[~found] == -1000).all()
    assert np.array_equal(masked[found], hu[found])


def test_a_slice_without_lungs_becomes_air() -> None:
    body = np.full((64, 64, 1), 30.0, np.float32)
    assert (without_background(body, SPACING) == -1000).all()
    assert not lungs(np.full((64, 64), -1000.0, np.float32), SPACING).any()
