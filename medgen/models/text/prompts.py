"""Prompts and modalities as parts of a condition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from medgen.config import did_you_mean
from medgen.errors import DataError, UsageError
from medgen.models.facts import DenoiserFacts
from medgen.models.text.bytepairs import BytePairs
from medgen.models.text.pretrained import FrozenStates, OutsideWords, Pretrained, load_pretrained
from medgen.models.text.wordpiece import WordPieces, plain_words
from medgen.nets.options import TextConfig, UNetConfig
from medgen.nets.text.modality import UNSAID

PARTS = ("words", "tokens", "token_mask", "pooled", "modality")
"""The parts of a condition that come from texts and modalities."""


class Reader(Protocol):
    """Turns texts into parts of a condition: words for an encoder in the network, or states of one outside it."""

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`words` or `tokens` and `pooled`, with their `token_mask`: a row a text, all of the same length."""

    def cut(self, text: str) -> str:
        """The end of a text that is not read, because it is too long; "" if all is read."""

    def unknown(self, text: str) -> list[str]:
        """The words of a text of which nothing is read."""


@dataclass(frozen=True)
class Prompts:
    """What a network of texts reads, and the modalities that it knows."""

    reader: Reader
    modalities: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()
    """Those that the captions of the training had; none if that is not known."""

    def strange(self, text: str) -> list[str]:
        """The words of a text that can be read, and that hardly any caption had."""
        unread = {word for one in self.reader.unknown(text) for word in plain_words(one)}
        found = (word for word in plain_words(text) if word not in self.words and word not in unread)
        return list(dict.fromkeys(found)) if self.words else []

    def read(self, texts: Sequence[str], modalities: Sequence[str]) -> dict[str, Tensor]:
        """The parts of a condition, from a text and a modality each ("" = not said); DataError for an unknown one."""
        parts = self.reader.read(texts)
        if self.modalities:
            numbers = [UNSAID if not name.strip() else 1 + self.number(name) for name in modalities]
            parts["modality"] = torch.tensor(numbers)
        return parts

    def number(self, modality: str) -> int:
        """The place of a modality in `modalities`, whatever its case; DataError with the known ones."""
        known = [key(name) for name in self.modalities]
        if key(modality) not in known:
            told = ", ".join(self.modalities) or "none"
            hint = did_you_mean(modality, self.modalities)
            raise DataError(f"the model does not know the modality '{modality}'{hint} (it knows: {told})")
        return known.index(key(modality))


def key(modality: str) -> str:
    """A modality's name without regard to case and spaces, by which names are compared."""
    return " ".join(modality.casefold().split())


def distinct(modalities: Iterable[str], known: Sequence[str] = ()) -> tuple[str, ...]:
    """The known modalities, then those new among `modalities`, in order; of several spellings, the first."""
    named = {key(name): name for name in known}
    for name in sorted({" ".join(name.split()) for name in modalities}):
        if key(name):
            named.setdefault(key(name), name)
    return tuple(named.values())


def spelled(modalities: Iterable[str], known: Sequence[str]) -> list[str]:
    """Each modality as `known` spells it; one that is not there as it is."""
    names = {key(name): name for name in known}
    return [names.get(key(name), name) for name in modalities]


def prompts_of(network: UNetConfig, facts: DenoiserFacts, device: torch.device, place: str | None) -> Prompts | None:
    """What reads texts for a trained network, or None if it takes none; `place` is where its text encoder lies.

    Raises UsageError for an encoder missing or too many, DataError for another than the one it was trained with.
    """
    told = facts.text_encoder
    if place is not None and (told is None or network.outside_text):
        raise UsageError("the model has no text encoder outside of itself; leave --text-encoder out")
    if network.text:
        return Prompts(reader_of(network.text, facts), facts.modalities, frozenset(facts.words))
    if told is None:
        return None
    if network.outside_text:
        words = OutsideWords(told.tokenizer, network.outside_text.length, network.outside_text.padding)
        return Prompts(words, facts.modalities)
    if place is None:
        raise UsageError(f"the model reads its texts by the encoder {told.name}; give that with --text-encoder")
    found = load_pretrained(place, told.length)
    if found.digest != told.digest:
        raise DataError(
            f"--text-encoder {place}: is not the encoder {told.name} that the model was trained with (its digest is "
            f"{found.digest[:12]}, expected {told.digest[:12]})"
        )
    return Prompts(frozen_states(found, device), facts.modalities)


def frozen_states(found: Pretrained, device: torch.device) -> FrozenStates:
    """What reads texts as states of a frozen encoder."""
    return FrozenStates(words_of(found), found.encoder(device), device)


def words_of(found: Pretrained) -> OutsideWords:
    """What reads texts as words of an encoder from outside."""
    return OutsideWords(found.tokenizer, found.config.length, found.config.padding)


def reader_of(text: TextConfig, facts: DenoiserFacts) -> Reader:
    """What reads texts for a built-in encoder."""
    if facts.merges:
        return BytePairs(facts.vocabulary, facts.merges, text.length, facts.padding)
    return WordPieces(facts.vocabulary, text.length)
