"""Varied prompts for training: parts are shuffled or left out, and words replaced by synonyms, at random per sample.

A model that saw each caption in one form alone learns the form. Every draw is a pure function of the seed and the
position in the training, so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta

from medgen.config import Options
from medgen.errors import ConfigError
from medgen.spelling import composed

Share = Annotated[float, Meta(ge=0, le=1)]

# Behind a full stop, a semicolon or a line break; not behind the dot of a number or an initial.
_BETWEEN = re.compile(r"(?<=[.;!?])\s+(?=[^\W_])|\s*\n\s*")


class PromptVariation(Options, frozen=True):
    """How often training texts are varied. Ends of sentences, semicolons and line breaks separate their parts."""

    shuffle: Share = 0.0
    """Share of texts whose parts are shuffled."""
    drop: Share = 0.0
    """Share of parts that are left out; one always stays."""
    replace: Share = 0.0
    """Share of occurrences of a known term that one of its synonyms replaces."""
    synonyms: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Synonyms by term: the table `[train-diffusion.prompts.synonyms]` of a configuration file."""

    def __post_init__(self) -> None:
        for term, others in self.synonyms.items():
            if not term.strip() or not others or not all(other.strip() for other in others):
                raise ConfigError(f'prompts.synonyms: \'{term}\' has none; write "{term}" = ["another word"]')
        if self.replace and not self.synonyms:
            raise ConfigError("prompts.replace: there are no synonyms; add a table prompts.synonyms")


@dataclass(frozen=True)
class Variation:
    """How a training with this seed varies its texts."""

    options: PromptVariation
    seed: int

    @property
    def synonyms(self) -> tuple[str, ...]:
        """All words that may replace others."""
        return tuple(other for others in self.options.synonyms.values() for other in others)

    def at(self, text: str, position: int) -> str:
        """The text as varied at this position in the training (from 0)."""
        return varied(text, self.options, self.seed, position)


def varied(text: str, options: PromptVariation, seed: int, position: int) -> str:
    """The text as varied at this position (from 0) in a training with this seed."""
    draw = random.Random(f"{seed}/prompt/{position}")
    text = composed(text)
    parts = _BETWEEN.split(text)
    # Everything is drawn whether it is used or not, so that one option does not change the draws of another.
    order = sorted(range(len(parts)), key=lambda _: draw.random())
    shuffled = draw.random() < options.shuffle
    stays = [draw.random() >= options.drop for _ in parts]
    if not any(stays):
        stays[draw.randrange(len(parts))] = True
    kept = [parts[index] for index in (order if shuffled else range(len(parts))) if stays[index]]
    shown = text if len(kept) == len(parts) and not shuffled else " ".join(kept)
    if not options.synonyms:
        return shown

    def another(found: re.Match[str]) -> str:
        choice, share = draw.random(), draw.random()
        others = _alternatives(options)[found.group().casefold()]
        return others[int(choice * len(others))] if share < options.replace else found.group()

    return _terms(tuple(map(composed, options.synonyms))).sub(another, shown)


def _alternatives(options: PromptVariation) -> dict[str, tuple[str, ...]]:
    return {composed(term).casefold(): others for term, others in options.synonyms.items()}


@lru_cache(maxsize=8)
def _terms(terms: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the terms as whole words, the longest first."""
    longest = sorted(terms, key=lambda term: (-len(term), term))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)
