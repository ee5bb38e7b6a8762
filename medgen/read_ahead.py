"""Read the next items in a thread while a network works on the current ones."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """`items` in order, read at most `depth` ahead; an exception in `items` is raised here, when its turn comes."""
    waiting: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def offer(kind: str, value: Item | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                waiting.put((kind, value), timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                offer("item", item)
                if stop.is_set():
                    return
            offer("end", None)
        except BaseException as error:  # raised again in the consumer's thread
            offer("error", error)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if isinstance(value, BaseException) and kind == "error":
                raise value
            yield value  # type: ignore[misc]
    finally:
        stop.set()
        thread.join(timeout=1.0)
