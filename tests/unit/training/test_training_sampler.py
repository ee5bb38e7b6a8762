from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.training.data.sampler import Sampler


def plain(count: int, seed: int = 0) -> Sampler:
    return Sampler(np.arange(100, 100 + count), seed, group=np.ones(count, dtype=bool))


def test_every_sample_has_its_turn_in_each_epoch_and_epochs_differ() -> None:
    epochs = plain(17)[range(51)].reshape(3, 17)
    for epoch in epochs:
        assert sorted(epoch) == list(range(100, 117))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], plain(17, seed=1)[range(17)])


@given(st.integers(1, 40), st.floats(0.05, 0.95), st.integers(0, 500), st.integers(1, 60))
def test_a_position_means_the_same_sample_however_it_is_asked_for(
    count: int, fraction: float, first: int, length: int
) -> None:
    group = np.arange(2 * count) % 2 == 0
    sampler = Sampler(np.arange(2 * count), 3, group=group, fraction=fraction)
    together = sampler[range(first, first + length)]
    again = Sampler(np.arange(2 * count), 3, group=group, fraction=fraction)
    assert together.tolist() == [int(again[[place]][0]) for place in range(first, first + length)]


@pytest.mark.parametrize("fraction", [0.25, 0.6])
def test_a_rare_group_gets_its_share_of_every_stretch_and_repeats_evenly(fraction: float) -> None:
    group = np.arange(1000) < 30
    sampler = Sampler(np.arange(1000), 0, group=group, fraction=fraction)
    chosen = sampler[range(600)]
    for stretch in chosen.reshape(-1, 20):
        assert abs((stretch < 30).sum() - 20 * fraction) <= 1
    counts = np.bincount(chosen[chosen < 30], minlength=30)
    assert counts.max() - counts.min() <= 1
    outside = chosen[chosen >= 30]
    assert len(set(outside)) == len(outside)
