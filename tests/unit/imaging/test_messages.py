"""What is sent arrives, arrays with their type, shape and values; a broken message is no message."""

from __future__ import annotations

import multiprocessing
import os
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from medgen.imaging.cases.messages import receive, send


@dataclass
class Record:
    name: str
    values: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any] | None


def through(message: object) -> Any:
    ours, theirs = multiprocessing.Pipe()

    def send_and_close() -> None:
        with theirs:  # so that a failure ends the wait
            send(theirs, message)

    with ours:
        sender = threading.Thread(target=send_and_close)
        sender.start()
        got = receive(ours)
        sender.join()
    return got


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3_000_000, dtype=np.int16).reshape(3, 1000, 1000),
        np.ones((2, 3), np.float32)[:, ::2],
        np.empty((0, 4), np.uint8),
        np.array(2.5),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
    ],
    ids=["large", "not contiguous", "empty", "scalar", "by columns"],
)
def test_arrays_arrive_as_they_were(array: np.ndarray[Any, Any]) -> None:
    got = through([Record("a", array, None), Record("b", array[:1] if array.ndim else array, array), 7])
    assert (got[0].name, got[0].mask, got[2]) == ("a", None, 7)
    for ours, theirs in ((got[0].values, array), (got[1].mask, array)):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert np.array_equal(ours, theirs)
        assert ours.flags.writeable


def test_errors_and_plain_values_pass() -> None:
    assert through(None) is None
    error = through(ValueError("why"))
    assert (type(error), str(error)) == (ValueError, "why")


def test_an_end_in_the_middle_of_an_array_is_an_end() -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours:
        sent, cut = multiprocessing.Pipe()
        send(cut, np.arange(1000, dtype=np.uint8))  # fits into the buffer
        whole = os.read(sent.fileno(), 1 << 16)
        os.write(theirs.fileno(), whole[:-1])
        theirs.close()
        with pytest.raises(EOFError):
            receive(ours)
        sent.close()
        cut.close()
