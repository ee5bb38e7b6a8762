"""Noise per sample, not per batch: the same for sample i at any batch size, shard count and device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def sample_noise(seed: int, indices: Sequence[int], shape: Sequence[int], stream: int = 0) -> Tensor:
    """Draw standard normal noise (B, *shape), float32 on the CPU; row b depends on (seed, indices[b], stream) alone."""
    noise = torch.empty(len(indices), *shape)
    for row, index in zip(noise, indices, strict=True):
        row.normal_(generator=_generator(seed, index, stream))
    return noise


class NoiseStream:
    """All the noise of a batch of samples: the initial noise, and what stochastic samplers add in each step."""

    def __init__(
        self, seed: int, indices: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        self.seed, self.indices, self.shape, self.device = seed, indices, shape, device

    def initial(self) -> Tensor:
        """The noise to start from, (B, *shape)."""
        return sample_noise(self.seed, self.indices, self.shape, 0).to(self.device)

    def step(self, k: int) -> Tensor:
        """Fresh noise of step k >= 0, (B, *shape)."""
        return sample_noise(self.seed, self.indices, self.shape, 1 + k).to(self.device)


def _generator(seed: int, index: int, stream: int) -> torch.Generator:
    # A hash, because adjacent seeds of the generator itself may give correlated streams.
    digest = hashlib.blake2b(f"{seed}/{index}/{stream}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
