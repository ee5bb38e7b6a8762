"""WordPiece: texts as pieces of words, of a vocabulary trained on captions.

Pieces that go on inside a word begin with "##". A vocabulary begins with the marks and the letters, so that any word of
them can be read in pieces, and grows by joining the most frequent pair (Schuster & Nakajima 2012; Sennrich et al. 2016,
algorithm 1). Ties go by alphabet, so that the same captions always give the same vocabulary.
"""

from __future__ import annotations

import itertools
import re
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from medgen.errors import DataError
from medgen.spelling import composed

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""Padding, an unreadable word, the beginning and the end of a text."""
PAD, UNKNOWN, BEGIN, END = range(len(MARKS))
INSIDE = "##"
LETTERS = string.ascii_lowercase + string.digits
_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")
_LONGEST = 100
"""Longer words are not read: they are not words."""
FAMILIAR = 1 << 16
"""Most words of its captions that a model file lists."""


@dataclass(frozen=True)
class WordPieces:
    """Reads texts as at most `length` subwords of a vocabulary, including the marks of beginning and end."""

    vocabulary: tuple[str, ...]
    length: int

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids `words` (B, length) int64 and `token_mask` (B, length), True at tokens, one row per text."""
        words = torch.full((len(texts), self.length), PAD)
        for row, text in enumerate(texts):
            pieces = [piece for _, pieces in self.pieces(text) for piece in pieces][: self.length - 2]
            words[row, : len(pieces) + 2] = torch.tensor([BEGIN, *pieces, END])
        return {"words": words, "token_mask": words != PAD}

    def cut(self, text: str) -> str:
        """The rest of a text from the first word that is not read whole; "" if all is read."""
        room = self.length - 2
        for start, pieces in self.pieces(text):
            room -= len(pieces)
            if room < 0:
                return composed(text)[start:].strip()
        return ""

    def unknown(self, text: str) -> list[str]:
        """The words of a text with a letter that the vocabulary lacks; nothing of them is read."""
        return [found[0] for found in _words(text) if UNKNOWN in self._split(_plain(found[0]))]

    def pieces(self, text: str) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The place of each word in the (NFC) text and the ids of its pieces."""
        for found in _words(text):
            yield found.start(), self._split(_plain(found[0]))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.vocabulary)}

    @cached_property
    def _known(self) -> dict[str, tuple[int, ...]]:
        """The pieces of words met so far."""
        return {}

    def _split(self, word: str) -> tuple[int, ...]:
        """The pieces of a word, always the longest that fits; `UNKNOWN` alone if it cannot be read to its end."""
        if (known := self._known.get(word)) is not None:
            return known
        pieces: list[int] = []
        start = 0
        while start < len(word) <= _LONGEST:
            before = INSIDE if start else ""
            ends = (end for end in range(len(word), start, -1) if before + word[start:end] in self._ids)
            end = next(ends, None)
            if end is None:
                break
            pieces.append(self._ids[before + word[start:end]])
            start = end
        found = tuple(pieces) if start == len(word) else (UNKNOWN,)
        if len(self._known) < 1 << 16:
            self._known[word] = found
        return found


def train_vocabulary(texts: Iterable[str], size: int, shared: Container[str]) -> tuple[str, ...]:
    """A vocabulary of at most `size` subwords for these texts; DataError if that is too few for their letters.

    Words that are not `shared` are split into letters only, because a name must not become a subword of the model.
    """
    counts = Counter(_plain(found[0]) for text in texts for found in _words(text))
    letters = Counter[str]()
    for word, count in counts.items():
        for letter in word:
            letters[letter] += count
    rare = sorted(set(letters) - set(LETTERS) - set(string.punctuation), key=lambda one: (-letters[one], one))
    start = [*MARKS, *LETTERS, *(INSIDE + letter for letter in LETTERS), *string.punctuation]
    start += [piece for letter in rare for piece in (letter, INSIDE + letter)]
    if len(start) > size:
        raise DataError(
            f"letters of the captions alone give {len(start)} pieces, more than text.vocabulary = {size}; enlarge it"
        )
    open_words = Counter({word: count for word, count in counts.items() if word in shared})
    return tuple(_joined(start, open_words, size))


def plain_words(text: str) -> list[str]:
    """The words of a text as they are read, without punctuation."""
    return [_plain(found[0]) for found in _words(text) if found[0].isalnum()]


def familiar_words(told: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The words that occur for two owners or more, at most the `FAMILIAR` commonest, in alphabetical order.

    `told`: owners, each a case or patient, with a text about them. A word of one owner is hardly learned, and may be a
    name that no model should reveal, however many slices repeat it.
    """
    counts: Counter[str] = Counter()
    last: dict[str, str] = {}  # owner of each word, so that a word of one owner is counted once, in any order
    for owner, text in told:
        for word in plain_words(text):
            if last.get(word) != owner:
                last[word] = owner
                counts[word] += 1
    commonest = sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))
    return tuple(sorted(commonest[:FAMILIAR]))


def _joined(vocabulary: list[str], counts: Counter[str], size: int) -> list[str]:
    """The vocabulary, grown to `size` by joining the most frequent pair of pieces, as long as it occurs twice."""
    words = sorted(counts)
    spelled = [[word[0], *(INSIDE + letter for letter in word[1:])] for word in words]
    pairs = Counter[tuple[str, str]]()
    places = defaultdict[tuple[str, str], set[int]](set)
    known = set(vocabulary)

    def take(number: int, sign: int) -> None:
        pieces = spelled[number]
        for pair in itertools.pairwise(pieces):
            pairs[pair] += sign * counts[words[number]]
            places[pair].add(number)

    for number in range(len(words)):
        take(number, 1)
    while len(vocabulary) < size and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        joint = best[0] + best[1].removeprefix(INSIDE)
        for number in places.pop(best):
            take(number, -1)
            spelled[number] = _with_joint(spelled[number], best, joint)
            take(number, 1)
        del pairs[best]
        if joint not in known:
            known.add(joint)
            vocabulary.append(joint)
    return vocabulary


def _with_joint(pieces: list[str], pair: tuple[str, str], joint: str) -> list[str]:
    result: list[str] = []
    place = 0
    while place < len(pieces):
        both = tuple(pieces[place : place + 2]) == pair
        result.append(joint if both else pieces[place])
        place += 1 + both
    return result


def _words(text: str) -> Iterator[re.Match[str]]:
    return _WORD.finditer(composed(text))


def _plain(word: str) -> str:
    """A word in lower case and without accents."""
    if word.isascii():
        return word.lower()
    parts = unicodedata.normalize("NFD", word.lower())
    return "".join(letter for letter in parts if unicodedata.category(letter) != "Mn")
