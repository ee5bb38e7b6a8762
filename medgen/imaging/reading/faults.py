"""Turn whatever a library raises for a damaged file into a one-sentence error about that file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from medgen.errors import DataError, MedgenError


class NoPicture(DataError):
    """The file may be valid, but holds no picture of a patient.

    `holds` says in a word what it holds instead, such as "RT Plan"; "" if that is not known.
    """

    def __init__(self, message: str, holds: str = "") -> None:
        super().__init__(message)
        self.holds = holds


@contextlib.contextmanager
def failing_as(file: str, what: str) -> Iterator[None]:
    """Raise whatever the block raises as a DataError: the name of the `file`, `what` is wrong with it, and the cause.

    Decoders may raise anything: a damaged file may recurse too deeply, request more memory than there is, or cause a
    Rust panic, which is not even an Exception.
    """
    try:
        yield
    except (MedgenError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise DataError(f"{file}: {what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The message of an error from a library, short and on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else text[:237] + "..."
