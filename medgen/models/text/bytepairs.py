"""Byte-pair encoding of texts, as CLIP reads them (Radford et al. 2021; Sennrich et al. 2016, algorithm 1).

Each byte is written as one letter, and subwords are joined in the order of a list of pairs. The last subword of a word
ends with a mark. Any text can be read, whatever its letters.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from medgen.spelling import composed

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LAST = "</w>"
"""Mark of a word's last piece."""
_CONTRACTION = re.compile("'s|'t|'re|'ve|'m|'ll|'d")


@dataclass(frozen=True)
class BytePairs:
    """Reads texts as `length` subwords of a vocabulary, including the marks of beginning and end and the padding."""

    vocabulary: tuple[str, ...]
    merges: tuple[str, ...]
    """Pairs of pieces with a space between, the first to be joined first."""
    length: int
    padding: str = END
    """The subword that pads texts; the encoder attends to it like any other."""

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids `words` (B, length) int64, one row per text; there is no mask."""
        words = torch.full((len(texts), self.length), self._ids[self.padding])
        for row, text in enumerate(texts):
            pieces = [piece for _, pieces in self.pieces(text) for piece in pieces][: self.length - 2]
            words[row, : len(pieces) + 2] = torch.tensor([self._ids[BEGIN], *pieces, self._ids[END]])
        return {"words": words}

    def cut(self, text: str) -> str:
        """The rest of a text from the first word that is not read whole; "" if all is read."""
        room = self.length - 2
        for start, pieces in self.pieces(text):
            room -= len(pieces)
            if room < 0:
                return composed(text)[start:].strip()
        return ""

    def unknown(self, text: str) -> list[str]:
        """The words of a text that the vocabulary lacks; none with CLIP's, which has every byte."""
        return [word for _, word in self._words(text) if None in self._joined(word)]

    def pieces(self, text: str) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The position of each word in the (NFC) text, and the ids of its subwords."""
        for start, word in self._words(text):
            yield start, tuple(self._ids[END] if one is None else one for one in self._joined(word))

    def _words(self, text: str) -> Iterator[tuple[int, str]]:
        """The place of each word, and the word in small letters; marks and the padding are words of their own."""
        start = 0
        for part in self._marks.split(composed(text)):
            if self._marks.fullmatch(part):
                yield start, part
            else:
                yield from ((start + place, word) for place, word in _words("".join(map(str.lower, part))))
            start += len(part)

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        return re.compile(f"({'|'.join(map(re.escape, {BEGIN: 0, END: 0, self.padding: 0}))})")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.vocabulary)}

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        pairs = (tuple(pair.split(" ")) for pair in self.merges)
        return {(first, second): rank for rank, (first, second) in enumerate(pairs)}

    @cached_property
    def _known(self) -> dict[str, tuple[int | None, ...]]:
        """The pieces of words met so far."""
        return {}

    def _joined(self, word: str) -> tuple[int | None, ...]:
        """Ids of the pieces of a word; None for one that the vocabulary lacks."""
        if (known := self._known.get(word)) is not None:
            return known
        if self._marks.fullmatch(word):
            return (self._ids[word],)
        letters = [LETTERS[byte] for byte in word.encode()]
        pieces = [*letters[:-1], letters[-1] + LAST]
        while len(pieces) > 1:
            pair = min(itertools.pairwise(pieces), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if pair not in self._ranks:
                break
            joined, place = [], 0
            while place < len(pieces):
                both = tuple(pieces[place : place + 2]) == pair
                joined.append("".join(pair) if both else pieces[place])
                place += 1 + both
            pieces = joined
        found = tuple(self._ids.get(piece) for piece in pieces)
        if len(self._known) < 1 << 16:
            self._known[word] = found
        return found


def _letters() -> list[str]:
    """A visible letter for each byte: itself where it is one, else the next from 256 on (Radford et al. 2019)."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


LETTERS = _letters()


def _words(plain: str) -> Iterator[tuple[int, str]]:
    """The place of each word and the word: an English contraction, letters, one digit, or other signs side by side."""
    start = 0
    while start < len(plain):
        end = start + 1
        kind = _kind(plain[start])
        if contraction := _CONTRACTION.match(plain, start):
            end = contraction.end()
        elif kind != "N":
            while end < len(plain) and _kind(plain[end]) == kind:
                end += 1
        if kind != "Z":
            yield start, plain[start:end]
        start = end


def _kind(letter: str) -> str:
    """Z: space, L: letter, N: number, S: any other sign."""
    if letter.isspace():
        return "Z"
    category = unicodedata.category(letter)[0]
    return category if category in "LN" else "S"
