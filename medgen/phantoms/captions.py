"""Sentences that say what a phantom shows, made from its truth alone, so that text and image agree exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FIELDS = ("modality", "organ", "side", "finding", "size", "number")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Caption:
    """What is said of one picture; an empty text says nothing of that."""

    modality: str
    organ: str
    side: str = ""  # left, right
    finding: str = ""  # one of it, such as "polyp"; "" for none
    size: str = ""  # small, medium, large: of all there are
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
        """Its cells under `FIELDS`."""
        return (self.modality, self.organ, self.side, self.finding, self.size, self.number)


def plural(noun: str) -> str:
    """Such as "drusen" of "druse"."""
    return {"druse": "drusen"}.get(noun, noun + "s")


def size_word(sizes: Iterable[float], limits: tuple[float, float]) -> str:
    """Small below the first limit, large from the second on; nothing where the sizes are not all alike."""
    words = {"small" if size < limits[0] else "medium" if size < limits[1] else "large" for size in sizes}
    return words.pop() if len(words) == 1 else ""
