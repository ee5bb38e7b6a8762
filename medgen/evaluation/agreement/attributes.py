"""What texts say, as questions with a few answers each: the fields of captions, or which frequent words occur."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgen.models.text.prompts import distinct, spelled
from medgen.phantoms.captions import FIELDS, Caption
from medgen.spelling import composed

Rows = npt.NDArray[np.int64]

GRAMMATICAL = 0.9
"""Share of the real texts that must be captions for their fields to be asked about."""
FEWEST = 5
"""Real cases that must show an answer for it to be learned."""
WORDS = 24
"""Words that are asked about at most."""
COMMON = (0.05, 0.95)
"""Shares of real texts between which a word's presence is worth asking about."""
NONE = "none"
SIDE, FINDING, MODALITY = "side", "finding", "modality"


@dataclass(frozen=True)
class Attribute:
    """A question: its answers by name, and the number of each slice's answer; -1 where the text does not give one."""

    name: str
    answers: tuple[str, ...]
    real: Rows
    asked: Rows
    strange: int = 0
    """Samples whose answer too few real cases show; it is -1 for these."""


@dataclass(frozen=True)
class Texts:
    """The texts (N,) of a set's slices, their modalities and the numbers of their cases."""

    texts: Sequence[str]
    modalities: Sequence[str]
    cases: Rows


@dataclass(frozen=True)
class Reading:
    """Which questions texts are asked, and how they answer."""

    fields: tuple[str, ...]
    """Of captions; none where the texts are written otherwise."""
    words: tuple[str, ...]
    modalities: tuple[str, ...] = ()
    """Those that are told beside the texts, and so not read in them; empty if none is."""

    @classmethod
    def of(cls, real: Texts, samples: Texts) -> Reading:
        """As the real texts are written."""
        told = [Caption.read(text) for text in real.texts if text]
        captions = told and sum(one is not None for one in told) >= GRAMMATICAL * len(told)
        told_beside = any(real.modalities) and any(samples.modalities)
        known = distinct(samples.modalities, distinct(real.modalities)) if told_beside else ()
        return cls(FIELDS, (), known) if captions else cls((), tuple(frequent_words(real)), known)

    def values(self, texts: Texts) -> dict[str, list[str]]:
        """What the texts (N,) answer to each question; "" where they do not."""
        found = {MODALITY: spelled(texts.modalities, self.modalities)} if self.modalities else {}
        captions = [Caption.read(text) for text in texts.texts] if self.fields else []
        for name in self.fields:  # where no modality is told beside a caption, its own counts
            own = _field(captions, name)
            found[name] = [told or said for told, said in zip(found.get(name, own), own, strict=True)]
        return found | {f"'{word}'": _presence(texts.texts, word) for word in self.words}


def attributes_of(real: Texts, samples: Texts) -> list[Attribute]:
    """All questions that the real texts can teach, and the answers that both give."""
    reading = Reading.of(real, samples)
    ours, theirs = reading.values(real), reading.values(samples)
    attributes = [_attribute(name, ours[name], theirs[name], real.cases) for name in ours]
    return [one for one in attributes if len(one.answers) > 1]


def frequent_words(real: Texts) -> list[str]:
    """The words whose presence divides the real texts best, most evenly first."""
    words = [set(words_of(text)) for text in real.texts]
    counts = Counter(word for held in words for word in held)
    shares = {word: count / max(len(words), 1) for word, count in counts.items()}
    fit = [word for word, share in shares.items() if COMMON[0] <= share <= COMMON[1] and len(word) > 2]
    return sorted(fit, key=lambda word: (abs(shares[word] - 0.5), word))[:WORDS]


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"[^\W\d_]+", composed(text).lower())


def combinations(real: bool, attributes: Sequence[Attribute]) -> list[str]:
    """For each slice, its modality, side and finding in words, as far as they are asked about."""
    parts = [one for one in attributes if one.name in (MODALITY, SIDE, FINDING)]
    rows = zip(*(one.real if real else one.asked for one in parts), strict=True)
    return [", ".join(_word(one, answer) for one, answer in zip(parts, row, strict=True)) for row in rows]


def _word(attribute: Attribute, answer: int) -> str:
    return "unknown" if answer < 0 else attribute.answers[answer]


def _field(captions: Sequence[Caption | None], name: str) -> list[str]:
    """The field of each caption; "" where it is not said. That there is no side or finding counts as said."""
    said = []
    for caption in captions:
        value = "" if caption is None else str(getattr(caption, name))
        absent = caption is not None and (name in (SIDE, FINDING) or (name == "number" and not caption.finding))
        said.append(NONE if absent and value in ("", "0") else "" if value == "0" else value)
    return said


def _presence(texts: Sequence[str], word: str) -> list[str]:
    return ["" if not text else "yes" if word in words_of(text) else "no" for text in texts]


def _attribute(name: str, real: Sequence[str], asked: Sequence[str], cases: Rows) -> Attribute:
    showing: dict[str, set[int]] = {}
    for value, case in zip(real, cases.tolist(), strict=True):
        showing.setdefault(value, set()).add(case)
    answers = tuple(sorted(value for value, found in showing.items() if value and len(found) >= FEWEST))
    numbers = {value: number for number, value in enumerate(answers)}
    strange = sum(bool(value) and value not in numbers for value in asked)
    ours, theirs = (np.array([numbers.get(value, -1) for value in one], np.int64) for one in (real, asked))
    return Attribute(name, answers, ours, theirs, strange)
