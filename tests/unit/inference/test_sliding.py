"""A sliding stretch gives what the whole stack would, and holds no more than was asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.inference.sliding import Sliding


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    moves=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=8),
    dim=st.sampled_from([0, 1]),
)
def test_any_reading_in_order_gives_what_the_whole_has(
    sizes: list[int], moves: list[tuple[int, int]], dim: int
) -> None:
    whole = torch.arange(sum(sizes) * 2).reshape(-1, 2)
    whole = whole if dim == 0 else whole.T
    made = 0

    def slabs() -> Iterator[torch.Tensor]:
        nonlocal made
        for slab in whole.split(sizes, dim):
            made += slab.shape[dim]
            yield slab

    sliding, first, furthest = Sliding(slabs(), dim), 0, 0
    for step, length in moves:
        first = min(first + step, sum(sizes) - 1)
        last = min(first + length, sum(sizes))
        assert torch.equal(sliding.read(first, last), whole.narrow(dim, first, last - first))
        furthest = max(furthest, last)
        assert made < furthest + max(sizes)
        sliding.forget(first)


def test_what_was_forgotten_takes_no_memory_and_cannot_be_read() -> None:
    sliding = Sliding(torch.zeros(4, 100) for _ in range(50))
    for first in range(0, 196, 4):
        held = sliding.read(first, first + 4)
        assert held.untyped_storage().nbytes() <= 3 * 4 * 100 * 4
        sliding.forget(first)
    with pytest.raises(IndexError, match="slice 191 was forgotten"):
        sliding.read(191, 194)
