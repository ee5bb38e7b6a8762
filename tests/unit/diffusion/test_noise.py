"""Noise belongs to a sample: to (seed, index, stream), and to nothing else."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.diffusion.noise import NoiseStream, sample_noise


@given(
    seed=st.integers(0, 2**63),
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=6),
    shape=st.lists(st.integers(1, 5), max_size=4),
    stream=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_each_row_is_that_of_its_index_alone(seed: int, indices: list[int], shape: list[int], stream: int) -> None:
    batch = sample_noise(seed, indices, shape, stream)
    assert batch.shape == (len(indices), *shape)
    for row, index in zip(batch, indices, strict=True):
        assert torch.equal(row, sample_noise(seed, [index], shape, stream)[0])


def test_seed_index_and_stream_each_change_all_of_it() -> None:
    drawn = [
        sample_noise(seed, [index], (64,), stream).flatten()
        for seed, index, stream in itertools.product((0, 1, 12), (0, 1, 12), (0, 1, 12))
    ]
    correlation = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert correlation.abs().max() < 0.6  # 351 pairs of 64 numbers: 4.8 standard errors


def test_is_standard_normal() -> None:
    noise = sample_noise(0, range(2000), (50,))
    assert noise.mean().abs() < 0.015
    assert (noise.std() - 1).abs() < 0.011
    assert noise.mean(0).abs().max() < 0.1  # across samples too
    share = (noise.abs() < 1).float().mean()
    assert (share - 0.6827).abs() < 0.007


def test_is_the_same_today_as_when_it_was_written() -> None:
    expected = [-0.6617739, -0.8442647, -0.50768, -0.8164003]
    torch.testing.assert_close(sample_noise(0, [0], (4,))[0], torch.tensor(expected), rtol=0, atol=1e-6)


def test_stream_separates_the_beginning_from_every_step() -> None:
    stream = NoiseStream(3, [7, 9], (2, 4))
    parts = [stream.initial(), *(stream.step(k) for k in range(5))]
    for a, b in itertools.combinations(parts, 2):
        assert not torch.equal(a, b)
    assert torch.equal(stream.step(2), stream.step(2))
    assert torch.equal(stream.step(2)[1:], NoiseStream(3, [9], (2, 4)).step(2))
    assert torch.equal(stream.initial(), sample_noise(3, [7, 9], (2, 4)))
