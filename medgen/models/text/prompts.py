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
from medgen.spelling import composed

PARTS = ("words", "tokens", "token_mask", "pooled", "modality")
"""The parts of a condition that come from texts and modalities."""


class Reader(Protocol):
    """Turns texts into parts of a condition: token ids for an encoder in the network, or states of one outside it."""

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`words` (B, L), or `tokens` (B, L, W) and `pooled` (B, W); with `token_mask` (B, L) unless all count."""

    def cut(self, text: str) -> str:
        """The end of a text that is too long to be read; "" if all is read."""

    def unknown(self, text: str) -> list[str]:
        """The words of a text of which nothing is read."""


@dataclass(frozen=True)
class Prompts:
    """How a network's prompts are read, and the modalities that it knows."""

    reader: Reader
    modalities: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()
    """The words of the training captions; empty if they are not known."""

    def strange(self, text: str) -> list[str]:
        """The words of a text that can be read but hardly occurred in the training captions."""
        unread = {word for one in self.reader.unknown(text) for word in plain_words(one)}
        found = (word for word in plain_words(text) if word not in self.words and word not in unread)
        return list(dict.fromkeys(found)) if self.words else []

    def read(self, texts: Sequence[str], modalities: Sequence[str]) -> dict[str, Tensor]:
        """The parts of a condition, from B texts and B modalities ("": none); DataError for an unknown modality."""
        parts = self.reader.read(texts)
        if self.modalities:
            numbers = [UNSAID if not name.strip() else 1 + self.number(name) for name in modalities]
            parts["modality"] = torch.tensor(numbers)
        return parts

    def number(self, modality: str) -> int:
        """The index of a modality in `modalities`, ignoring case; DataError naming the known ones."""
        known = [key(name) for name in self.modalities]
        if key(modality) not in known:
            told = ", ".join(self.modalities) or "none"
            hint = did_you_mean(modality, self.modalities)
            raise DataError(f"the model does not know the modality '{modality}'{hint} (it knows: {told})")
        return known.index(key(modality))


def key(modality: str) -> str:
    """A modality's name without case and extra spaces, its accents composed, for comparison."""
    return " ".join(composed(modality).casefold().split())


def distinct(modalities: Iterable[str], known: Sequence[str] = ()) -> tuple[str, ...]:
    """The known modalities, then the new ones of `modalities`, sorted; of several spellings, the first."""
    named = {key(name): name for name in known}
    for name in sorted({" ".join(name.split()) for name in modalities}):
        if key(name):
            named.setdefault(key(name), name)
    return tuple(named.values())


def spelled(modalities: Iterable[str], known: Sequence[str]) -> list[str]:
    """Each modality as `known` spells it; others stay as they are."""
    names = {key(name): name for name in known}
    return [names.get(key(name), name) for name in modalities]


def prompts_of(network: UNetConfig, facts: DenoiserFacts, device: torch.device, place: str | None) -> Prompts | None:
    """The prompts of a trained network, or None if it takes none; `place` is where its outside text encoder lies.

    UsageError for a missing or needless `place`; DataError if it is not the encoder that the network was trained with.
    """
    told = facts.text_encoder
    if place is not None and (told is None or network.outside_text):
        raise UsageError("the model has its own text encoder; leave out --text-encoder")
    if network.text:
        return Prompts(reader_of(network.text, facts), facts.modalities, frozenset(facts.words))
    if told is None:
        return None
    if network.outside_text:
        words = OutsideWords(told.tokenizer, network.outside_text.length, network.outside_text.padding)
        return Prompts(words, facts.modalities)
    if place is None:
        raise UsageError(f"the model reads texts with the encoder {told.name}; give it with --text-encoder")
    found = load_pretrained(place, told.length)
    if found.digest != told.digest:
        raise DataError(
            f"--text-encoder {place}: is not the encoder {told.name} that the model was trained with (its digest is "
            f"{found.digest[:12]}, expected {told.digest[:12]})"
        )
    return Prompts(frozen_states(found, device), facts.modalities)


def frozen_states(found: Pretrained, device: torch.device) -> FrozenStates:
    """A reader of texts as states of a frozen encoder."""
    return FrozenStates(words_of(found), found.encoder(device), device)


def words_of(found: Pretrained) -> OutsideWords:
    """A reader of texts as token ids of an outside encoder."""
    return OutsideWords(found.tokenizer, found.config.length, found.config.padding)


def reader_of(text: TextConfig, facts: DenoiserFacts) -> Reader:
    """The reader of texts for an encoder inside the network: subwords of CLIP, or of a vocabulary of our own."""
    if facts.merges:
        return BytePairs(facts.vocabulary, facts.merges, text.length, facts.padding)
    return WordPieces(facts.vocabulary, text.length)
