"""Who is told what happens, and what becomes of what fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from medgen.errors import DataError


class Listener(Protocol):
    """Who is told what happens."""

    def say(self, message: str) -> None:
        """A result or a step."""

    def warn(self, message: str) -> None:
        """Something the user should know although the work goes on."""


@dataclass
class LeftOut:
    """What failed: raised at once, or under `keep_going` told and collected."""

    listener: Listener
    keep_going: bool
    reasons: list[str] = field(default_factory=list)

    def add(self, reason: str) -> None:
        """One item failed for this reason."""
        if not self.keep_going:
            raise DataError(f"{reason} (--keep-going leaves such items out)")
        self.reasons.append(reason)
        self.listener.warn(f"left out: {reason}")
