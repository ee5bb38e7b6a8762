"""Let a running step finish when the process is asked to end."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from medgen.errors import MedgenError, Terminated


class StopRequest:
    """Inside the block, the first SIGTERM or Ctrl-C is only noted in `received`; a second one ends at once.

    A compiler that the block runs gets Ctrl-C as well: what fails because of that counts as the end asked for.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if self.received is not None and isinstance(error, Exception) and not isinstance(error, MedgenError):
            raise (KeyboardInterrupt if self.received == signal.SIGINT else Terminated("terminated")) from error

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
