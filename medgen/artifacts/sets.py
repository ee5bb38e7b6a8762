"""Open and create sets in any encoding: HDF5 file, stream file, or `-` for the standard streams."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, overload

from medgen.artifacts.hdf5.plain import new_hdf5, open_hdf5
from medgen.artifacts.hdf5.writer import StoredWriter
from medgen.artifacts.outputs.whole import atomic_file, storage_errors
from medgen.artifacts.provenance import Identified, all_digests
from medgen.artifacts.schema import SetHeader
from medgen.artifacts.spool import temporary_storage
from medgen.artifacts.stored import StoredSet
from medgen.artifacts.stream import StreamReader, StreamWriter
from medgen.artifacts.tensors.header import HDF5_MAGIC
from medgen.artifacts.writer import SetWriter
from medgen.errors import DataError, InputMissingError, UsageError

SetReader = StreamReader | StoredSet


@overload
def open_set(
    source: str | Path, *, random_access: Literal[False] = ..., name: str = ...
) -> contextlib.AbstractContextManager[SetReader]: ...
@overload
def open_set(
    source: str | Path, *, random_access: Literal[True], name: str = ...
) -> contextlib.AbstractContextManager[StoredSet]: ...


@contextlib.contextmanager
def open_set(source: str | Path, *, random_access: bool = False, name: str = "") -> Iterator[Any]:
    """A reader of the set at `source` ("-": standard input); errors call it `name`.

    With `random_access`, a stream is first spooled to a temporary HDF5 file, which is unlinked at once.
    """
    name = name or str(source)
    with contextlib.ExitStack() as stack:
        reader: SetReader
        if str(source) == "-":
            if sys.stdin.isatty():
                raise UsageError("standard input is a terminal; name a set, or pipe one in")
            # Unbuffered: the interpreter aborts at exit if a thread is waiting for the buffer's lock.
            reader = StreamReader(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), "standard input")
        else:
            file = stack.enter_context(_open_file(Path(source)))
            beginning = file.read(8)
            if beginning == HDF5_MAGIC:
                file.close()  # HDF5 opens it itself, and hundreds of shards may be open at once
                reader = StoredSet(stack.enter_context(open_hdf5(Path(source), name)), name)
            elif len(beginning) < 8:
                raise DataError(f"{source}: not a medgen set: the file is {'empty' if not beginning else 'too short'}")
            else:
                reader = StreamReader(file, name, beginning)
        if random_access and isinstance(reader, StreamReader):
            reader = stack.enter_context(_spool(reader))
        yield reader


@contextlib.contextmanager
def create_set(
    destination: str | Path, header: SetHeader, *, inputs: Iterable[Identified] = (), force: bool = False
) -> Iterator[SetWriter]:
    """A writer of a new set at `destination` ("-": standard output); it is complete only if the block ends well.

    `inputs` must be those that `header.provenance` was derived from; their digests are read at the end.
    """
    writer: SetWriter
    if str(destination) == "-":
        refuse_terminal()
        writer = StreamWriter(sys.stdout.buffer, header)
        yield writer
        writer.finish(writer.digest.tail(all_digests(inputs)))
        return
    with atomic_file(Path(destination), force=force) as temporary, new_hdf5(temporary) as file:
        writer = StoredWriter(file, header)
        yield writer
        writer.finish(writer.digest.tail(all_digests(inputs)))


def refuse_terminal() -> None:
    """A binary artifact must not be written to a terminal."""
    if sys.stdout.isatty():
        raise UsageError("the output is binary and standard output is a terminal; give -o FILE, or pipe it on")


@contextlib.contextmanager
def _spool(stream: StreamReader) -> Iterator[StoredSet]:
    with temporary_storage():
        descriptor, name = tempfile.mkstemp(prefix="medgen-", suffix=".h5")
    os.close(descriptor)
    path = Path(name)
    with storage_errors(path), contextlib.ExitStack() as stack:
        stack.callback(path.unlink, missing_ok=True)
        file = stack.enter_context(new_hdf5(path))
        path.unlink()  # so that nothing is left behind, however this process ends
        writer = StoredWriter(file, stream.header)
        for case in stream:
            writer.write(case)
        writer.finish(stream.tail)
        yield StoredSet(file, "standard input")


def _open_file(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputMissingError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputMissingError(f"{path}: is a folder, not a set; make one of it with medgen preprocess") from None
    except OSError as error:
        raise InputMissingError(f"{path}: cannot be opened: {error.strerror}") from None
