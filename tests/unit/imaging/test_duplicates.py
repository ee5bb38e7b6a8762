"""Equal pixels are found by digest; the first one counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medgen.imaging.cases.duplicates import Duplicate, Duplicates, joined


def test_pairs_point_at_the_first_and_know_both_splits() -> None:
    seen = Duplicates()
    order = [(b"a", "train"), (b"b", "val"), (b"a", "test"), (b"a", "train"), (b"b", "val")]
    assert [seen.add(digest, case, split) for case, (digest, split) in enumerate(order)] == [
        False, False, True, True, True,
    ]  # fmt: skip
    assert seen.found == [
        Duplicate(2, "test", 0, "train"),
        Duplicate(3, "train", 0, "train"),
        Duplicate(4, "val", 1, "val"),
    ]


@given(
    st.lists(st.binary(min_size=16, max_size=16), max_size=4), st.lists(st.binary(min_size=16, max_size=16), max_size=4)
)
def test_cases_are_equal_when_all_their_parts_are_in_order(one: list[bytes], other: list[bytes]) -> None:
    assert (joined(one) == joined(other)) == (one == other)
    assert len(joined(one)) == 16
