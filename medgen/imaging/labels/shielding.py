"""Text that a spreadsheet would take for a formula is written with a leading apostrophe, removed on reading."""

from __future__ import annotations

import re

# What begins so is a formula to spreadsheets (https://owasp.org/www-community/attacks/CSV_Injection), as they are or
# as letters of full width; numbers are none.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def shielded(text: str) -> bool:
    """Whether an apostrophe is put before a text: a formula, one with spaces around it, or one of these in apostrophes,
    which could not be told from a shielded one."""
    core = text.lstrip("'")
    return core != core.strip() or (bool(_FORMULA.match(core)) and not _NUMBER.fullmatch(core))


def bare(cell: str) -> str:
    """The text of a cell, without an apostrophe that shields it, or spaces around it."""
    return cell[1:] if cell.startswith("'") and shielded(cell) else cell.strip()
