"""A position in the training, and the random numbers that belong to it.

Every draw is a pure function of (seed, phase, position). So a resumed run equals an uninterrupted one, and the
same samples get the same noise however many processes or accumulated batches share a step.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medgen.diffusion.noise import sample_noise

Batch = dict[str, Tensor]
Phase = Literal["train", "validation", "finish"]


def mix(*parts: object) -> int:
    """A 63-bit seed from any names and numbers."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextlib.contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Seed torch's global generator, which initialises networks, from `parts` inside the block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(*parts))
        yield


@dataclass(frozen=True)
class Step:
    """One batch of one process in step `index`: samples [offset, offset + count) of the `total` that the step takes."""

    seed: int
    index: int
    offset: int
    count: int
    total: int
    phase: Phase = "train"
    progress: float = 0.0
    """Share of the training done so far, in [0, 1); for terms that ramp."""
    origin: int = 0
    """Offset of the sample count at step 0; not 0 where earlier steps were larger or smaller than `total`."""

    @property
    def training(self) -> bool:
        """Whether the loss will be differentiated."""
        return self.phase == "train"

    @property
    def positions(self) -> range:
        """Numbers of this batch's samples, counted over the whole phase."""
        first = self.origin + self.index * self.total + self.offset
        return range(first, first + self.count)

    def noise(self, like: Tensor, name: str = "noise") -> Tensor:
        """Standard normal float32 numbers of the shape (B, ...) and on the device of `like`, drawn per sample."""
        seed = mix(self.seed, self.phase, name)
        return sample_noise(seed, self.positions, like.shape[1:]).to(like.device, non_blocking=True)

    def generator(self, name: str) -> torch.Generator:
        """A generator for draws over all `total` samples of the step, of which `own` takes this batch's."""
        return torch.Generator().manual_seed(mix(self.seed, self.phase, self.index, name))

    def own(self, values: Tensor) -> Tensor:
        """Take this batch's part (count, ...) of a draw over the whole step (total, ...)."""
        return values[self.offset : self.offset + self.count]
