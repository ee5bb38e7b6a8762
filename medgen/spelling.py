"""Texts that look alike made alike, before words are looked for in them."""

from __future__ import annotations

import unicodedata


def composed(text: str) -> str:
    """The text with each accent joined to its letter (Unicode's form NFC).

    Some programs write the two as two characters, and a word would end between them.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)
