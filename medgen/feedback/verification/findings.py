"""What a check finds in a case, next to what was asked, as JSON values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from medgen.artifacts.schema import Case, SetHeader


@dataclass(frozen=True)
class Finding:
    """One request about a slice, what the slice shows, and by how much the two differ."""

    about: str
    asked: dict[str, Any]
    found: dict[str, Any]
    differs: dict[str, float]
    passes: bool | None
    """None where nothing of it could be judged."""
    not_judged: tuple[str, ...] = ()
    """What of `asked` could not be judged reliably, and so decides nothing."""


class Check(Protocol):
    """Measures one kind of request."""

    @property
    def trust(self) -> dict[str, Any]:
        """How reliable the check is: how often known real images pass it."""

    def findings(self, case: Case, header: SetHeader) -> list[Finding]:
        """One finding for each slice."""
