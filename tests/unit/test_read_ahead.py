from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from medgen.read_ahead import read_ahead


def test_items_come_in_order() -> None:
    assert list(read_ahead(range(100))) == list(range(100))


def test_an_error_arrives_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken input")

    seen = []
    with pytest.raises(ValueError, match="broken input"):
        for item in read_ahead(items()):
            seen.append(item)
    assert seen == [1, 2]


def test_an_error_may_be_an_item() -> None:
    error = ValueError("only data")
    assert list(read_ahead([error])) == [error]


def test_reading_runs_ahead_but_not_far() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    reader = read_ahead(items(), depth=2)
    next(reader)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 3 <= len(made) <= 4  # one taken, two waiting, one in hand
    reader.close()


def test_closing_ends_the_thread() -> None:
    reader = read_ahead(iter(range(10**6)))
    next(reader)
    reader.close()
    deadline = time.monotonic() + 5
    while any(thread.name == "read-ahead" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())
