"""Progress and messages for people, independent of how they are shown."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol


class Advance(Protocol):
    """Advances a progress display."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """`count` more items are done; `note` is shown beside the progress."""


Progress = Callable[[int | None, str], contextlib.AbstractContextManager[Advance]]
"""Takes the number of items (None: unknown) and their unit; yields the function to call as they are done."""


class Reporter(Protocol):
    """Receives messages and progress."""

    report: dict[str, Any]
    """Facts about the run, for `--report`."""

    def say(self, message: str) -> None:
        """Report a result or a step."""

    def detail(self, message: str) -> None:
        """Report something that is shown only on request."""

    def warn(self, message: str) -> None:
        """Report a problem that the user should know of, although the work goes on."""

    def progress(self, total: int | None, unit: str) -> contextlib.AbstractContextManager[Advance]:
        """Show how many of `total` items (None: unknown) are done; the context yields the function that advances it."""


class Silent:
    """Discards everything: for every process but the first, and for tests."""

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
    """An `Advance` that shows nothing."""
