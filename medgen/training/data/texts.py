"""The texts and modalities of a set, and what reads them in training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from msgspec.structs import replace

from medgen.artifacts.stored import StoredSet
from medgen.errors import ConfigError, DataError
from medgen.imaging.cases.identity import owner_of
from medgen.models.condition import fitted_to_texts
from medgen.models.facts import DenoiserFacts, TextEncoderFacts
from medgen.models.text.pretrained import Pretrained, load_pretrained
from medgen.models.text.prompts import Prompts, Reader, distinct, frozen_states, reader_of, words_of
from medgen.models.text.wordpiece import WordPieces, familiar_words, train_vocabulary
from medgen.nets.options import UNetConfig
from medgen.prompts.variation import Variation
from medgen.training.data.slices import rows_of

BLOCK = 1 << 14
"""Texts in memory at once."""
SHOWN = 60
"""Letters of a text that are shown in a message."""


class TextOptions(Protocol):
    """Options of a training that may read texts."""

    @property
    def network(self) -> UNetConfig:
        """The network, with its own text encoder if it has one."""

    @property
    def text_encoder(self) -> str | None:
        """Where a text encoder of transformers lies, to be used instead."""

    @property
    def text_tuning(self) -> str:
        """Whether that is trained along."""

    @property
    def text_length(self) -> int:
        """How many pieces it reads."""


@dataclass(frozen=True)
class Reading:
    """How a training reads texts."""

    network: UNetConfig
    """With the text encoder, widths and modalities that this needs."""
    prompts: Prompts | None = None
    own: tuple[tuple[str, ...], tuple[str, ...], str] = ((), (), "")
    """Vocabulary, merges and padding of the network's own encoder."""
    encoder: Pretrained | None = None
    """From outside."""
    words: tuple[str, ...] = ()
    """Those of the captions, where the network learns from them what words mean."""

    @property
    def tuned(self) -> bool:
        """Whether an encoder from outside is trained along, as a part of the network."""
        return self.network.outside_text is not None

    @property
    def facts(self) -> dict[str, Any]:
        """What the model file says about it, as fields of `DenoiserFacts`."""
        facts: dict[str, Any] = dict(zip(("vocabulary", "merges", "padding"), self.own, strict=True))
        facts["words"] = self.words
        if self.prompts:
            facts["modalities"] = self.prompts.modalities
        if self.encoder:
            tokenizer = self.encoder.tokenizer if self.tuned else ""
            length = self.encoder.config.length
            facts["text_encoder"] = TextEncoderFacts(self.encoder.name, self.encoder.digest, length, tokenizer)
        return facts


def reading_of(
    stored: StoredSet,
    options: TextOptions,
    old: DenoiserFacts | None,
    device: torch.device,
    name: str,
    variation: Variation | None = None,
) -> Reading:
    """How the texts of the set `name` are read; not at all if the network reads none.

    The vocabulary and the modalities of an `old` model, whose training goes on, are kept; new modalities are added. A
    new vocabulary is that of the texts as `variation` shows them, so that it has the synonyms.
    """
    network, encoder = options.network, None
    words: tuple[str, ...] = ()
    if not network.text and not network.outside_text and options.text_encoder is None:
        if variation is not None:
            raise ConfigError("prompts: the network reads no texts to vary; give it a table network.text")
        return Reading(network)
    if not stored.has("text") or not any(map(str.strip, training_texts(stored, "text"))):
        raise DataError(f"{name}: has no texts to learn from; preprocess it with a column 'text'")
    modalities = training_texts(stored, "modality") if stored.has("modality") else iter(())
    known = distinct(modalities, old.modalities if old else ())
    if old and old.merges:  # of Stable Diffusion, which is told no modality
        known = ()
    vocabulary = old.vocabulary if old and options.text_encoder is None else ()
    if options.text_encoder is not None:
        encoder = load_pretrained(options.text_encoder, options.text_length)
        tuned = options.text_tuning != "frozen"
        reader: Reader = words_of(encoder) if tuned else frozen_states(encoder, device)
        outside = encoder.config if tuned else None
        network = replace(network, text=None, outside_text=outside, context_width=encoder.config.width)
    elif network.text:
        text = network.text
        synonyms = variation.synonyms if variation else ()  # each as if two cases had it
        others = ((owner, one) for one in synonyms for owner in ("", " "))
        shared = familiar_words(itertools.chain(_owned_texts(stored), others))
        if not vocabulary:
            texts = training_texts(stored, "text")
            shown = texts if variation is None else (variation.at(one, place) for place, one in enumerate(texts))
            vocabulary = train_vocabulary(shown, text.vocabulary, set(shared))
        reader = reader_of(text, old) if old and old.vocabulary else WordPieces(vocabulary, text.length)
        network = replace(network, text=replace(text, vocabulary=len(vocabulary)))
        if old is None or old.words:
            words = tuple(sorted({*shared, *(old.words if old else ())}))
    else:
        raise ConfigError("network.outside_text: is filled in where --text-encoder is given; leave it out")
    prompts = Prompts(reader, known)
    merges, padding = (old.merges, old.padding) if old and vocabulary else ((), "")
    return Reading(fitted_to_texts(network, prompts), prompts, (vocabulary, merges, padding), encoder, words)


def warning_of_cuts(stored: StoredSet, prompts: Prompts) -> str:
    """Which share of the training texts is not read to its end, and an example; "" if none. The first are looked at."""
    texts = list(itertools.islice(training_texts(stored, "text"), BLOCK))
    cuts = {text: prompts.reader.cut(text) for text in dict.fromkeys(texts)}
    count = sum(bool(cuts[text]) for text in texts)
    if not count:
        return ""
    example = next(filter(None, cuts.values()))
    shown = example if len(example) <= SHOWN else f"{example[:SHOWN]}..."
    return (
        f"{max(count / len(texts), 0.01):.0%} of the texts are too long for the network, and are cut; "
        f"not read, for instance: '{shown}'"
    )


def _owned_texts(stored: StoredSet) -> Iterator[tuple[str, str]]:
    """The texts of the training split with their patient, or else their case, one per slice, in order."""
    owners = (owner_of(row.id) for row in rows_of(stored, "train") for _ in range(row.count))
    return zip(owners, training_texts(stored, "text"), strict=True)


def training_texts(stored: StoredSet, column: str) -> Iterator[str]:
    """The texts of the training split, one per slice, in order."""
    rows = rows_of(stored, "train")
    slices = np.concatenate([np.arange(row.start, row.start + row.count) for row in rows])
    for start in range(0, len(slices), BLOCK):
        yield from stored.texts(column, slices[start : start + BLOCK])
