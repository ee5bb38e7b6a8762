"""What came first with each key, for any number of keys in constant memory."""

from __future__ import annotations

import sqlite3
from typing import Any

from medgen.errors import StorageError

CACHE_KIB = 16384


class Remembered:
    """Keys and the values they were first given; in a temporary file without a name once they outgrow the cache."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)
        for setting in (f"cache_size = -{CACHE_KIB}", "journal_mode = off", "synchronous = off"):
            self._file.execute(f"pragma {setting}")
        self._file.execute("create table first (key blob primary key, value, count integer) without rowid")

    def first(self, key: bytes, value: int | str) -> int | str:
        """The value that `key` was first given: `value` itself if it is new."""
        told: int | str = self._put(key, value)[0]
        return told

    def count(self, key: bytes) -> int:
        """How often `key` has been given, this time included."""
        times: int = self._put(key, None)[1]
        return times

    def _put(self, key: bytes, value: int | str | None) -> tuple[Any, int]:
        try:
            found = self._file.execute("select value, count from first where key = ?", (key,)).fetchone()
            if found is None:
                self._file.execute("insert into first values (?, ?, 1)", (key, value))
                return value, 1
            self._file.execute("update first set count = count + 1 where key = ?", (key,))
        except sqlite3.OperationalError as error:
            raise StorageError(f"the temporary file of what was seen before cannot grow: {error}") from None
        return found[0], found[1] + 1
