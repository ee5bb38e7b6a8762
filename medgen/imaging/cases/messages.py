"""Messages between processes, like `Connection.send` and `recv`, but arrays are sent as bytes, without copies."""

from __future__ import annotations

import io
import os
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from medgen.artifacts.schema import as_bytes


def send(pipe: Connection, message: object) -> None:
    """Send what `receive` returns at the other end."""
    arrays: list[memoryview] = []
    rest = io.BytesIO()
    # Protocol 5 hands out the bytes of large arrays instead of writing them.
    ForkingPickler(rest, 5, True, lambda array: arrays.append(array.raw())).dump(message)
    pipe.send((rest.getvalue(), [array.nbytes for array in arrays]))
    for array in arrays:
        while array:
            array = array[os.write(pipe.fileno(), array) :]


def receive(pipe: Connection) -> Any:
    """The next message; EOFError if the other end is closed, even in the middle of a message."""
    rest, sizes = pipe.recv()
    arrays = [np.empty(size, np.uint8) for size in sizes]
    for array in arrays:
        missing = as_bytes(array)
        while missing:
            got = os.readv(pipe.fileno(), [missing])
            if not got:
                raise EOFError
            missing = missing[got:]
    return ForkingPickler.loads(rest, buffers=arrays)
