from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.evaluation.memorization.alignment import align, overlapping, small, unlikeness
from medgen.evaluation.memorization.spectrum import KEPT, mirrored, spectrum


def smooth(count: int, side: int = 40, channels: int = 1, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 5, 1, 2)


def pairs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count), torch.arange(count)


@settings(max_examples=25)
@given(st.integers(-4, 4), st.integers(-4, 4), st.floats(0.2, 3), st.floats(-1, 1))
def test_a_shifted_image_is_found_at_its_shift_whatever_its_contrast(
    down: int, right: int, gain: float, offset: float
) -> None:
    scene = smooth(1, 48)
    a = scene[..., 4:44, 4:44]
    b = scene[..., 4 + down : 44 + down, 4 + right : 44 + right] * gain + offset
    distance, shift = align(a, b, *pairs(1), 4)
    assert shift.tolist() == [[down, right]]
    assert float(distance) == pytest.approx(0, abs=2e-3)


def test_every_shift_is_weighed_as_a_search_by_hand_would() -> None:
    a, b = smooth(3, 12, 2), smooth(2, 12, 2, seed=1)
    of_a, of_b = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 0, 0, 1])
    distances, shifts = align(a, b, of_a, of_b, 3)
    for i, j, distance, shift in zip(of_a, of_b, distances, shifts.tolist(), strict=True):
        found = {}
        for down in range(-3, 4):
            for right in range(-3, 4):
                ours, theirs = overlapping(a[i], b[j], (down, right))
                correlation = np.corrcoef(ours.flatten().numpy(), theirs.flatten().numpy())[0, 1]
                found[(down, right)] = np.sqrt(1 - correlation)
                assert unlikeness(a[i], b[j], (down, right)) == pytest.approx(found[(down, right)], abs=1e-6)
        assert tuple(shift) == min(found, key=lambda key: found[key])
        assert float(distance) == pytest.approx(min(found.values()), abs=1e-5)


def test_a_copy_is_nearer_than_all_near_copies() -> None:
    scene = smooth(1, 64)
    near = scene + 1e-4 * torch.linspace(0, 1, 50)[:, None, None, None] * smooth(50, 64, seed=1)
    distances, _ = align(scene, near, torch.zeros(50, dtype=torch.int64), torch.arange(50), 8)
    assert int(distances.argmin()) == 0
    assert float(distances[0]) == pytest.approx(0, abs=1e-6)


def test_an_empty_image_is_like_no_other() -> None:
    flat = torch.full((2, 1, 20, 20), -1.0)
    distances, _ = align(torch.cat([flat[:1], smooth(1, 20)]), flat, *pairs(2), 2)
    assert unlikeness(flat[0], flat[1], (0, 0)) == 1
    assert distances.tolist() == pytest.approx([1, 1], abs=1e-3)


def test_small_images_lose_noise_and_keep_their_mean() -> None:
    noise = torch.randn(4, 1, 128, 96, generator=torch.Generator().manual_seed(0)) + 0.3
    reduced = small(noise, (64, 48))
    assert reduced.shape == (4, 1, 64, 48)
    assert float(reduced.mean()) == pytest.approx(float(noise.mean()), abs=0.01)
    assert float(reduced.std()) < 0.3 * float(noise.std())


def test_shifts_change_spectra_less_than_other_images_do() -> None:
    scenes = smooth(20, 80)
    spectra, shifted = spectrum(scenes[..., 8:72, 8:72]), spectrum(scenes[..., 3:67, 12:76])
    assert spectra.shape == (20, 2 * KEPT - 1, KEPT)
    distances = torch.cdist(shifted.flatten(1), spectra.flatten(1))
    assert torch.equal(distances.argmin(1), torch.arange(20))


@pytest.mark.parametrize("axis", [-1, -2])
def test_mirroring_an_image_reverses_its_spectrum(axis: int) -> None:
    images = smooth(3, 64)
    torch.testing.assert_close(spectrum(images.flip(axis)), mirrored(spectrum(images)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(spectrum(images.flip(-1, -2)), spectrum(images), atol=1e-4, rtol=1e-3)
