"""File names and texts from files, made safe to print: nothing in them can control a terminal."""

from __future__ import annotations

import re

# Control characters (C0, DEL, C1), marks that change the direction of text, line separators, and lone surrogates, which
# represent bytes of a name that are not UTF-8.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text on one line, with escapes such as `\x1b` in place of characters that a terminal would act on."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_lines(text: str) -> str:
    """The same for a text of several lines; line breaks are kept."""
    return "\n".join(map(visible, text.split("\n")))
