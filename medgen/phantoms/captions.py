"""Sentences that describe a phantom, made from its truth alone, so that text and image agree exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FIELDS = ("modality", "organ", "side", "finding", "size", "number")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


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

    @property
    def row(self) -> tuple[object, ...]:
        """The caption's values for the columns `FIELDS`."""
        return (self.modality, self.organ, self.side, self.finding, self.size, self.number)


def plural(noun: str) -> str:
    """Such as "drusen" of "druse"."""
    return {"druse": "drusen"}.get(noun, noun + "s")


def size_word(sizes: Iterable[float], limits: tuple[float, float]) -> str:
    """Small below the first limit, large from the second on; "" where the sizes differ."""
    words = {"small" if size < limits[0] else "medium" if size < limits[1] else "large" for size in sizes}
    return words.pop() if len(words) == 1 else ""
