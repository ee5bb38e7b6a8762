"""The texts and modalities of a set, and what reads them in training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medgen.artifacts.stored import StoredSet
from medgen.errors import ConfigError, DataError
from medgen.models.facts import DenoiserFacts
from medgen.models.text.prompts import Prompts, distinct, reader_of
from medgen.models.text.wordpiece import WordPieces, train_vocabulary
from medgen.nets.options import UNetConfig
from medgen.prompts.variation import Variation
from medgen.training.data.slices import rows_of

BLOCK = 1 << 14
"""Texts in memory at once."""


def read_prompts(
    stored: StoredSet, network: UNetConfig, old: DenoiserFacts | None, name: str, variation: Variation | None = None
) -> tuple[tuple[str, ...], Prompts | None]:
    """The vocabulary of the set `name`, and what reads its texts; none if `network` reads no text.

    The vocabulary and the modalities of an `old` model, whose training goes on, are kept; new modalities are added. A
    new vocabulary is that of the texts as `variation` shows them, so that it has the synonyms.
    """
    if network.text is None:
        if variation is not None:
            raise ConfigError("prompts: the network reads no texts to vary; give it a table network.text")
        return (), None
    if not stored.has("text") or not any(map(str.strip, training_texts(stored, "text"))):
        raise DataError(f"{name}: has no texts to learn from; preprocess it with a column 'text'")
    if old and old.merges:  # of Stable Diffusion, which is told no modality
        return old.vocabulary, Prompts(reader_of(network.text, old))
    vocabulary = old.vocabulary if old else ()
    if not vocabulary:
        texts = training_texts(stored, "text")
        shown = texts if variation is None else (variation.at(text, place) for place, text in enumerate(texts))
        vocabulary = train_vocabulary(shown, network.text.vocabulary)
    modalities = training_texts(stored, "modality") if stored.has("modality") else iter(())
    known = distinct(modalities, old.modalities if old else ())
    return vocabulary, Prompts(WordPieces(vocabulary, network.text.length), known)


def training_texts(stored: StoredSet, column: str) -> Iterator[str]:
    """The texts of the training split, one per slice, in order."""
    rows = rows_of(stored, "train")
    slices = np.concatenate([np.arange(row.start, row.start + row.count) for row in rows])
    for start in range(0, len(slices), BLOCK):
        yield from stored.texts(column, slices[start : start + BLOCK])
