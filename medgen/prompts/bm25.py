"""Okapi BM25: which texts are about what a query is about (Robertson and Zaragoza 2009)."""

from __future__ import annotations

import heapq
import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable

K1 = 1.2
B = 0.75

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


def words_of(text: str) -> list[str]:
    """The words of a text, regardless of case; a word with hyphens is one."""
    return _WORD.findall(text.casefold())


class BM25:
    """An index of texts: eight bytes for each different word of each of them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts_with: dict[str, array[int]] = defaultdict(lambda: array("I"))
        self._counts: dict[str, array[int]] = defaultdict(lambda: array("I"))
        self._lengths = array("I")
        for number, text in enumerate(texts):
            words = words_of(text)
            self._lengths.append(len(words))
            for word, count in Counter(words).items():
                self._texts_with[word].append(number)
                self._counts[word].append(count)
        self._mean_length = sum(self._lengths) / len(self._lengths) if self._lengths else 0.0

    def __len__(self) -> int:
        return len(self._lengths)

    def weight(self, word: str) -> float:
        """How telling a word is: ln(1 + (N - n + 0.5) / (n + 0.5)) for a word in n of N texts; never negative."""
        n = len(self._texts_with.get(word, ()))
        return math.log(1 + (len(self) - n + 0.5) / (n + 0.5))

    def nearest(self, query: str, count: int) -> list[tuple[int, float]]:
        """The numbers and scores of at most `count` texts that share a word with the query, the best first.

        Of texts with the same score, the first comes first.
        """
        scores: dict[int, float] = defaultdict(float)
        for word in sorted(set(words_of(query)) & self._texts_with.keys()):
            weight = self.weight(word)
            for number, times in zip(self._texts_with[word], self._counts[word], strict=True):
                length = self._lengths[number] / self._mean_length
                scores[number] += weight * times * (K1 + 1) / (times + K1 * (1 - B + B * length))
        return heapq.nsmallest(count, scores.items(), key=lambda item: (-item[1], item[0]))
