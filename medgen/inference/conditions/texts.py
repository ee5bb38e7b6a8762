"""The texts and modalities that samples are asked to show: from options, lines, a CSV file or a set."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError, InputMissingError, UsageError
from medgen.imaging.labels.rows import read_rows
from medgen.inference.conditions.fields import AskedFields
from medgen.inference.conditions.vectors import COLUMN_SYNONYMS
from medgen.models.text.prompts import Prompts
from medgen.reporting import Reporter

TEXT, MODALITY = "text", "modality"
TOLD = 8
"""Prompts that are named in messages."""


@dataclass(frozen=True)
class AskedTexts:
    """A prompt for each sample, and its modality ("": none given)."""

    prompts: Prompts
    texts: Sequence[str]
    modalities: Sequence[str]
    order: Sequence[int] = ()
    """The text of each sample."""
    negative: str | None = None
    """What guidance leads away from in place of the null condition."""

    def __len__(self) -> int:
        return len(self.texts)

    def told(self, indices: Sequence[int]) -> dict[str, list[str]]:
        """Text and modality of these samples, as cases store them; the modality by the model's name."""
        rows = [self.order[index] for index in indices]
        named = [self.modalities[row] for row in rows]
        known = [self.prompts.modalities[self.prompts.number(name)] if name else "" for name in named]
        return {TEXT: [self.texts[row] for row in rows]} | ({MODALITY: known} if any(known) else {})

    def parts(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The parts of the condition of these samples."""
        rows = [self.order[index] for index in indices]
        return self.prompts.read([self.texts[row] for row in rows], [self.modalities[row] for row in rows])

    def negative_parts(self, count: int) -> dict[str, Tensor]:
        """The parts of the condition that guidance leads away from; its modality stays as asked."""
        return {} if self.negative is None else self.prompts.reader.read([self.negative] * count)

    def described(self) -> dict[str, Any]:
        """For the provenance: the text if all samples share it, else digests."""
        told: dict[str, Any] = {"prompts": _shared([self.texts[row] for row in self.order])}
        if any(self.modalities):
            told["modality"] = _shared([self.modalities[row] for row in self.order])
        return told if self.negative is None else told | {"negative_prompt": self.negative}

    def inspect(self, reporter: Reporter) -> None:
        """Warn of words that are not read. UsageError for an empty prompt, DataError for an unknown modality."""
        for name in set(self.modalities) - {""}:
            self.prompts.number(name)
        reader = self.prompts.reader
        texts = [*dict.fromkeys(self.texts), *([] if self.negative is None else [self.negative])]
        if not all(map(str.strip, texts)):
            raise UsageError("a prompt is empty; write what the image should show (--unconditional for no prompt)")
        cuts = [(text, reader.cut(text)) for text in texts]
        _warn(reporter, [f"{_quoted(text)} is too long; not read: {_quoted(cut, 200)}" for text, cut in cuts if cut])
        unread = [(_quoted(text), reader.unknown(text)) for text in texts]
        _warn(reporter, [f"{text} has words that the model cannot read: {', '.join(w)}" for text, w in unread if w])
        strange = [(_quoted(text), ", ".join(self.prompts.strange(text))) for text in texts]
        _warn(reporter, [f"{text} has words that hardly any training caption had: {w}" for text, w in strange if w])


def _warn(reporter: Reporter, messages: Sequence[str]) -> None:
    for message in messages[:TOLD]:
        reporter.warn(message)
    if len(messages) > TOLD:
        reporter.warn(f"and {len(messages) - TOLD} more prompts like these")


def _quoted(text: str, most: int = 60) -> str:
    """The text, or its beginning and how long it is."""
    return f"'{text}'" if len(text) <= most else f"'{text[:most]}...' ({len(text)} letters)"


def _shared(texts: Sequence[str]) -> str:
    """One text if all are the same, else a digest of all."""
    if len(set(texts)) == 1:
        return texts[0]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def texts_in_lines(place: Path) -> list[str]:
    """One prompt for each line of a file, or of standard input for "-"; empty lines are skipped.

    UsageError for a table; InputMissingError or DataError for a file that cannot be read or holds no prompt.
    """
    if place.suffix.lower() == ".csv":
        raise UsageError(f"--prompts {place}: is a table, not a prompt a line; give it with --conditions")
    try:
        content = sys.stdin.buffer.read() if str(place) == "-" else place.read_bytes()
        lines = re.split(r"\r\n?|\n", content.decode("utf-8-sig"))  # not at form feeds, which text copied from PDF has
    except OSError as error:
        raise InputMissingError(f"--prompts {place}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"--prompts {place}: not UTF-8 text ({error})") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise DataError(f"--prompts {place}: holds no prompt")
    return texts


def texts_in_csv(file: Path, prompts: Prompts, fields: AskedFields | None = None) -> AskedTexts:
    """The columns `text` (or prompt) and `modality` of a CSV file; with `fields`, a template makes texts of columns.

    DataError for a file without texts, or with an empty one.
    """
    read = read_rows(file, COLUMN_SYNONYMS)
    modalities = [row.get(MODALITY, "") for _, row in read.rows]
    if fields:
        return AskedTexts(prompts, [fields.of_row(file, number, row) for number, row in read.rows], modalities)
    if TEXT not in read.columns:
        raise DataError(f"{file}: has no column '{TEXT}', and the model generates images from prompts; add one")
    for number, row in read.rows:
        if not row[TEXT]:
            raise DataError(f"{file}, row {number}: its {TEXT} is empty")
    return AskedTexts(prompts, [row[TEXT] for _, row in read.rows], modalities)


def texts_of_set(stored: StoredSet, slices: Sequence[int], prompts: Prompts, name: str) -> AskedTexts:
    """The texts and modalities of slices of a set; DataError if it has none."""
    if not stored.has(TEXT):
        raise DataError(f"{name}: has no texts; use a set that was preprocessed with a column '{TEXT}'")
    texts = stored.texts(TEXT, slices)
    empty = next((place for place, text in zip(slices, texts, strict=True) if not text.strip()), None)
    if empty is not None:
        raise DataError(f"{name}, slice {empty}: has no text, and the model generates images from prompts")
    modalities = stored.texts(MODALITY, slices) if prompts.modalities and stored.has(MODALITY) else [""] * len(texts)
    return AskedTexts(prompts, texts, modalities)
