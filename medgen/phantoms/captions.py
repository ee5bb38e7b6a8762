"""Sentences that describe a phantom, made from its truth alone, so that text and image agree exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

FIELDS = ("modality", "organ", "side", "finding", "size", "number")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

GRAMMAR = re.compile(
    r"(?P<modality>.+?) of the ((?P<side>left|right) )?(?P<organ>.+?) "
    rf"(without findings|with ((?P<number>{'|'.join(NUMBERS)}|\d+) )?((?P<size>small|medium|large) )?(?P<finding>.+))"
)
"""Of `Caption.text`."""


@dataclass(frozen=True)
class Caption:
    """The caption of one picture, in parts; an empty part is not mentioned."""

    modality: str
    organ: str
    side: str = ""  # left, right
    finding: str = ""  # in the singular, such as "polyp"; "" for none
    size: str = ""  # small, medium, large: if it holds for all of them
    number: int = 0

    @property
    def text(self) -> str:
        """Such as "fundus of the left eye with three small haemorrhages"."""
        place = " ".join(filter(None, (self.side, self.organ)))
        if not self.finding:
            return f"{self.modality} of the {place} without findings"
        number = "" if self.number < 1 else NUMBERS[self.number] if self.number < len(NUMBERS) else str(self.number)
        noun = self.finding if self.number <= 1 else plural(self.finding)
        return f"{self.modality} of the {place} with {' '.join(filter(None, (number, self.size, noun)))}"

    @staticmethod
    def read(text: str) -> Caption | None:
        """The caption whose text this is, whatever the case of its letters; None if it is written otherwise."""
        found = GRAMMAR.fullmatch(" ".join(text.lower().split()).removesuffix("."))
        if found is None:
            return None
        said = {name: value or "" for name, value in found.groupdict().items()}
        number = said["number"]
        count = NUMBERS.index(number) if number in NUMBERS else int(number or 0)
        finding = said["finding"] if count <= 1 else singular(said["finding"])
        return Caption(said["modality"], said["organ"], said["side"], finding, said["size"], count)

    @property
    def row(self) -> tuple[object, ...]:
        """The caption's values for the columns `FIELDS`."""
        return (self.modality, self.organ, self.side, self.finding, self.size, self.number)


IRREGULAR = {"druse": "drusen", "naevus": "naevi"}


def plural(noun: str) -> str:
    """Such as "drusen" of "druse"."""
    return IRREGULAR.get(noun, noun + "s")


def singular(nouns: str) -> str:
    """Such as "druse" of "drusen"."""
    return next((one for one, many in IRREGULAR.items() if many == nouns), nouns.removesuffix("s"))


def size_word(sizes: Iterable[float], limits: tuple[float, float]) -> str:
    """Small below the first limit, large from the second on; "" where the sizes differ."""
    words = {"small" if size < limits[0] else "medium" if size < limits[1] else "large" for size in sizes}
    return words.pop() if len(words) == 1 else ""
