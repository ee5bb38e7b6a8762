"""What the user reads while a command runs: all on stderr, each line prefixed with the command's name."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from medgen.reporting import Advance, unseen
from medgen.visible import visible

PLAIN_LINE_EVERY = 10.0  # seconds between progress lines where stderr is not a terminal


@dataclass(frozen=True)
class Unfailing:
    """A stream of messages, which are lost where it is closed, a terminal that is gone, or on a full disk."""

    stream: TextIO

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Pass on what is waiting, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@dataclass
class Console:
    """Messages, progress and the facts for `--report`, of one run of one command."""

    command: str
    quiet: bool = False
    verbose: bool = False
    report: dict[str, Any] = field(default_factory=dict)
    warnings: int = 0
    """Number of warnings so far."""
    page: Path | None = None
    """Path of the page for `--report FILE.html`."""

    @property
    def stream(self) -> TextIO:
        """Standard error, as it is now (tests replace it)."""
        return Unfailing(sys.stderr)  # type: ignore[return-value]

    def say(self, message: str) -> None:
        """Report a result or a step; silent under `--quiet`."""
        if not self.quiet:
            self._line(message)

    def detail(self, message: str) -> None:
        """Report a detail; only under `--verbose`."""
        if self.verbose:
            self._line(message)

    def warn(self, message: str) -> None:
        """Warn the user while the work continues; also under `--quiet`."""
        self.warnings += 1
        self._line(f"warning: {message}")

    def error(self, message: str) -> None:
        """Report why the command failed."""
        self._line(message)

    @contextlib.contextmanager
    def progress(self, total: int | None, unit: str) -> Iterator[Advance]:
        """Yield `advance(count=1, note="")`; a bar on a terminal, a plain line now and then elsewhere."""
        if self.quiet:
            yield unseen
        elif self.stream.isatty():
            with self._bar(total, unit) as advance:
                yield advance
        else:
            yield _PlainProgress(self, total, unit).advance

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """Print a small table, aligned for people; silent under `--quiet`."""
        if self.quiet or not rows:
            return
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        def shown(cell: str) -> Text:
            return Text(visible(cell))  # nor does it obey rich's own marks, such as [red]

        rich_table = Table(title=shown(f"medgen {self.command}: {title}"), title_justify="left")
        for index, column in enumerate(columns):
            rich_table.add_column(shown(column), justify="left" if index == 0 else "right")
        for row in rows:
            rich_table.add_row(*map(shown, row))
        console = RichConsole(file=self.stream, soft_wrap=True)
        if not self.stream.isatty():
            console.width = 160
        console.print(rich_table)

    @contextlib.contextmanager
    def _bar(self, total: int | None, unit: str) -> Iterator[Advance]:
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn(f"medgen {self.command}:"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} {task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=RichConsole(file=self.stream), transient=True) as bar:
            task = bar.add_task("", total=total, unit=visible(unit), note="")

            def advance(count: int = 1, note: str = "") -> None:
                bar.update(task, advance=count)
                if note:
                    bar.update(task, note=visible(note))

            yield advance

    def _line(self, message: str) -> None:
        stream = self.stream
        stream.write(f"{f'medgen {self.command}'.rstrip()}: {visible(message)}\n")
        stream.flush()


@dataclass
class _PlainProgress:
    console: Console
    total: int | None
    unit: str
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if now - self.told < PLAIN_LINE_EVERY:
            return
        self.told = now
        rate = self.done / (now - self.started)
        of_total = f"/{self.total}" if self.total is not None else ""
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.total is not None and rate > 0 else ""
        self.console.say(f"{self.done}{of_total} {self.unit}, {rate:.3g}/s{left}{', ' + note if note else ''}")
