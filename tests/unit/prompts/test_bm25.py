"""BM25 by hand: weights, lengths and order."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.prompts.bm25 import BM25, words_of

TEXTS = ["large heart", "small heart, no effusion", "X-ray of the chest; large effusion, large nodule", ""]


def test_scores_are_those_of_the_formula() -> None:
    index = BM25(TEXTS)
    mean = (2 + 4 + 8 + 0) / 4
    weight = math.log(1 + (4 - 2 + 0.5) / 2.5)  # each word is in 2 of 4 texts
    assert index.weight("heart") == pytest.approx(weight)

    def part(times: int, length: int) -> float:
        return weight * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / mean))

    found = index.nearest("LARGE heart heart!", 5)
    expected = {0: 2 * part(1, 2), 2: part(2, 8), 1: part(1, 4)}
    assert [number for number, _ in found] == [0, 2, 1]
    assert dict(found) == pytest.approx(expected)


def test_what_shares_no_word_is_not_found_and_ties_go_by_number() -> None:
    assert BM25(TEXTS).nearest("liver", 3) == []
    assert BM25([]).nearest("liver", 3) == []
    assert [number for number, _ in BM25(["a b", "c", "b a", "a b"]).nearest("a", 2)] == [0, 2]


@given(st.lists(st.text("ab c-", max_size=12), max_size=6), st.text("ab c-", max_size=8))
def test_scores_are_positive_and_in_order(texts: list[str], query: str) -> None:
    found = BM25(texts).nearest(query, 10)
    assert {number for number, _ in found} == {
        number for number, text in enumerate(texts) if set(words_of(text)) & set(words_of(query))
    }
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert all(score > 0 for score in scores)
