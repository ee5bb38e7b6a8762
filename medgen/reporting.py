"""Progress and messages for people: what the work tells, whoever listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol


class Advance(Protocol):
    """Tells the progress that more is done."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` says how it goes."""


Progress = Callable[[int | None, str], contextlib.AbstractContextManager[Advance]]
"""From the number of items (None: unknown) and their unit to what is called as they are done."""


class Reporter(Protocol):
    """Who is told what happens."""

    report: dict[str, Any]
    """Facts about the run, for `--report`."""

    def say(self, message: str) -> None:
        """Tell a result or a step."""

    def detail(self, message: str) -> None:
        """Tell something that only those want to know who asked for it."""

    def warn(self, message: str) -> None:
        """Tell what the user should know although the work goes on."""

    def progress(self, total: int | None, unit: str) -> contextlib.AbstractContextManager[Advance]:
        """Show how many of `total` items (None: unknown) are done, as told by what is yielded."""


class Silent:
    """Tells nobody: for every process but the first, and for tests."""

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}

    def say(self, message: str) -> None:
        """Tell nothing."""

    def detail(self, message: str) -> None:
        """Tell nothing."""

    def warn(self, message: str) -> None:
        """Tell nothing."""

    @contextlib.contextmanager
    def progress(self, total: int | None, unit: str) -> Iterator[Advance]:
        """Show nothing."""
        yield unseen


def unseen(count: int = 1, note: str = "") -> None:
    """An advance that nobody watches."""
