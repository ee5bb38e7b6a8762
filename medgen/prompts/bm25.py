"""Okapi BM25: ranks texts by how well they match a query (Robertson and Zaragoza 2009, section 3)."""

from __future__ import annotations

import heapq
import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable

from medgen.spelling import composed

K1 = 1.2
"""Saturation: how much repeating a word in a text raises the score."""
B = 0.75
"""How far scores are normalised by text length: 0 not at all, 1 fully."""

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


def words_of(text: str) -> list[str]:
    """The words of a text, case-folded; a hyphenated word is one word."""
    return _WORD.findall(composed(text).casefold())


class BM25:
    """An index of texts; it takes eight bytes for each distinct word of each text."""

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
        """The inverse document frequency ln(1 + (N - n + 0.5) / (n + 0.5)) of a word in n of N texts; at least 0."""
        n = len(self._texts_with.get(word, ()))
        return math.log(1 + (len(self) - n + 0.5) / (n + 0.5))

    def nearest(self, query: str, count: int) -> list[tuple[int, float]]:
        """Indices and scores (above 0) of at most `count` texts that share a word with the query, best first.

        Texts with the same score keep their order.
        """
        scores: dict[int, float] = defaultdict(float)
        for word in sorted(set(words_of(query)) & self._texts_with.keys()):
            weight = self.weight(word)
            for number, times in zip(self._texts_with[word], self._counts[word], strict=True):
                length = self._lengths[number] / self._mean_length
                scores[number] += weight * times * (K1 + 1) / (times + K1 * (1 - B + B * length))
        return heapq.nsmallest(count, scores.items(), key=lambda item: (-item[1], item[0]))
