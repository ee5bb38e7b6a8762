"""Names and texts that are written in several ways: accents as macOS writes them, capitals, numbers with zeros."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_NUMBER = re.compile(r"([+-]?)0*([0-9]+?)(?:\.([0-9]*?)0*)?")
_BETWEEN = re.compile(r"[\s^_]+")
"""What stands between the parts of a name: in DICOM `^`."""


def composed(text: str) -> str:
    """The text with each accent joined to its letter (Unicode's form NFC).

    Some programs write the two as two characters, and a word would end between them.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def plain(name: str) -> str:
    """What the spellings of one name have in common."""
    if number := _NUMBER.fullmatch(name):
        sign, whole, rest = number.groups()
        return sign.strip("+") + whole + (f".{rest}" if rest else "")
    return _BETWEEN.sub(" ", composed(name).casefold()).strip()


def spelled_twice(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names, in order, that are spellings of one; None if there are none."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        if (before := seen.setdefault(plain(name), name)) != name:
            return before, name
    return None
