"""The confirmed cases that are nearest to a prompt, which lend it their terms, or their image as the start of sampling.

A case is confirmed if its images are real and it may be trained on: what is held out for tests is never shown.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.models.facts import check_intensity
from medgen.models.text.prompts import key
from medgen.models.trained import Denoiser, FrozenVAE
from medgen.prompts.bm25 import BM25, words_of

NEAREST = 3
"""Cases that lend their terms."""
DEFAULT_STRENGTH = 0.7
AGREED = 2
"""Of these cases, those that must share a part of their texts before it is lent."""

DENIALS = frozenset(("no", "not", "without", "never", "absent", "negative"))
"""Words by which a text says the opposite of what its other words say."""
_BETWEEN = re.compile(r"[.;,]\s+|\s*\n\s*")


Lent = Literal["terms", "image"]
"""What the cases found lend: parts of their texts to the prompt, or the image of the nearest to the noise."""


@dataclass(frozen=True)
class Hit:
    """A slice that was found: its index in the set, its case, its BM25 score and its text."""

    slice: int
    case: str
    score: float
    text: str


class Retrieval:
    """The texts of a set's confirmed cases, by their words; images stay in the file."""

    def __init__(self, stored: StoredSet, name: str) -> None:
        self._stored = stored
        self._name = name
        if not stored.has("text"):
            raise DataError(f"{name}: has no texts to find cases by; preprocess it from a table with a column 'text'")
        texts = stored.texts("text")
        modalities = stored.texts("modality") if stored.has("modality") else [""] * len(texts)
        self._slices: list[int] = []
        self._cases: list[str] = []
        self._modalities: list[str] = []
        for row in stored.cases:
            if row.split == "train" and not row.synthetic:
                told = [index for index in range(row.start, row.start + row.count) if texts[index]]
                self._slices += told
                self._cases += [row.id] * len(told)
                self._modalities += [key(modalities[index]) for index in told]
        if not self._slices:
            raise DataError(f"{name}: has no real case with a text in split 'train', the only split that is searched")
        self._texts = [texts[index] for index in self._slices]
        self._index = BM25(self._texts)

    def nearest(self, prompt: str, modality: str = "", count: int = NEAREST) -> tuple[Hit, ...]:
        """The slices whose texts are closest to a prompt, one a case, leaving out those of another modality.

        DataError if none of their texts shares a word with the prompt.
        """
        others = {"", key(modality)}
        hits: dict[str, Hit] = {}
        asked, found = count, 0
        while len(hits) < count and found < len(self._index):  # slices of one case share a text
            hits, ranked = {}, self._index.nearest(prompt, asked)
            for number, score in ranked:
                if modality and self._modalities[number] not in others:
                    continue
                case = self._cases[number]
                hits.setdefault(case, Hit(self._slices[number], case, score, self._texts[number]))
            asked, found = 4 * asked, len(self._index) if len(ranked) < asked else asked
        if not hits:
            told = f" of the modality '{modality}'" if modality else ""
            raise DataError(f"{self._name}: no case of split 'train'{told} shares a word with the prompt '{prompt}'")
        return tuple(hits.values())[:count]

    def telling(self, word: str) -> bool:
        """Whether a word distinguishes texts: fewer than half of them contain it."""
        return self._index.weight(word) > math.log(2)

    def start(self, hits: Sequence[Hit], model: Denoiser, vae: FrozenVAE | None) -> Tensor:
        """The found slices as network inputs (B, c, h, w); DataError for a set that does not fit the model."""
        numbers = [hit.slice for hit in hits]
        header, facts = self._stored.header, model.facts
        if header.kind == "latent":
            if vae is None:
                raise DataError(f"{self._name}: holds latents, and the model works on images; give the set of images")
            vae.check_made(header, self._name)
            seen = torch.from_numpy(header.latent_space.seen(self._stored.read("latent", numbers).astype(np.float32)))
        else:
            images = torch.from_numpy(check_intensity(header, facts).normalized(self._stored.read("image", numbers)))
            seen = images if vae is None else vae.latents(images)
        if tuple(seen.shape[1:]) != tuple(facts.shape):
            theirs, ours = (" x ".join(map(str, shape)) for shape in (seen.shape[1:], facts.shape))
            raise DataError(f"{self._name}: its slices are {theirs}, but the model makes {ours}; preprocess it alike")
        return seen.to(model.device)


def with_terms(prompt: str, hits: Sequence[Hit], telling: Callable[[str], bool]) -> str:
    """The prompt, extended by the parts of texts that most found cases share, or else by those of the closest case.

    Parts are added whole: single words of "no effusion" would say the opposite. Parts that repeat or contradict the
    prompt are left out.
    """
    parts = [{_plain(part): part for part in _parts(hit.text)} for hit in hits]
    counts = Counter(part for each in parts for part in each)
    shared = {part for part, count in counts.items() if count >= AGREED}
    known, said = f" {_plain(prompt)} ", _parts(prompt)
    lent = {plain: part for each in (parts if shared else parts[:1]) for plain, part in each.items() if plain}
    chosen = [part for plain, part in lent.items() if (plain in shared or not shared) and f" {plain} " not in known]
    return "; ".join((prompt, *(part for part in chosen if not any(_otherwise(part, one, telling) for one in said))))


def _otherwise(part: str, said: str, telling: Callable[[str], bool]) -> bool:
    """Whether a part speaks of what is said already, and says it otherwise: it lacks a telling word, or denies it."""
    theirs, ours = set(words_of(part)), set(words_of(said))
    shared = ours & theirs - DENIALS
    denied = bool(theirs & DENIALS) != bool(ours & DENIALS)
    return (denied and bool(shared)) or (any(map(telling, shared)) and any(map(telling, ours - theirs)))


def _parts(text: str) -> list[str]:
    return [part.strip(" .;,") for part in _BETWEEN.split(text)]


def _plain(text: str) -> str:
    return " ".join(words_of(text))


@dataclass(frozen=True)
class Retrieved:
    """What was found for each original prompt, and how it is used."""

    retrieval: Retrieval
    asked: Sequence[str]
    hits: Sequence[tuple[Hit, ...]]
    """For each prompt."""
    order: Sequence[int]
    """The prompt of each sample."""
    use: Lent
    strength: float
    """The share of the schedule at which sampling starts from an image: 1 = from noise alone."""

    @property
    def prompts(self) -> list[str]:
        """The prompts with the added terms."""
        if self.use == "image":
            return list(self.asked)
        return [
            with_terms(text, hits, self.retrieval.telling) for text, hits in zip(self.asked, self.hits, strict=True)
        ]

    def start(self, indices: Sequence[int], model: Denoiser, vae: FrozenVAE | None) -> Tensor | None:
        """The network inputs (B, c, h, w) that these samples start from; None if they start from noise."""
        if self.use != "image":
            return None
        return self.retrieval.start([self.hits[self.order[index]][0] for index in indices], model, vae)

    def described(self) -> dict[str, Any]:
        """For the provenance: what was found, in full if all samples share a prompt, else its digest."""
        used = sorted(set(self.order))
        found = [_told(self.hits[row]) for row in used]
        told = found[0] if len(used) == 1 else hashlib.sha256(msgspec.json.encode(found)).hexdigest()[:16]
        return {"use": self.use, "cases": told} | ({"strength": self.strength} if self.use == "image" else {})

    def report(self) -> list[dict[str, Any]]:
        """For the report: each prompt before and after, and the cases found for it."""
        shown = self.prompts
        return [
            {"asked": self.asked[row], "prompt": shown[row], "cases": _told(self.hits[row])}
            for row in sorted(set(self.order))
        ]


def _told(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Cases by id, the slice counted in the set, and the score."""
    return [{"case": hit.case, "slice": hit.slice, "score": round(hit.score, 6)} for hit in hits]
