"""Outputs appear whole, by rename in the destination folder, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from medgen.errors import OutputError, StorageError


def check_output(destination: Path, *, force: bool = False) -> None:
    """Refuse early what would fail at the end: an existing output, or a folder that cannot take one.

    Not even `force` replaces a device, pipe or socket: a rename over /dev/null would take it from the whole machine.
    """
    if destination.exists() and not (destination.is_file() or destination.is_dir()):
        raise OutputError(f"{destination}: is a device or pipe; give a file, or - for standard output")
    if destination.exists() and not force:
        raise OutputError(f"{destination}: exists already; give --force to replace it")
    folder = destination.parent
    if not folder.is_dir():
        raise OutputError(f"{destination}: folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{destination}: no permission to write in {folder}")


@contextlib.contextmanager
def atomic_file(destination: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `destination`; on success it takes its place, on any failure it goes.

    A symbolic link as destination is followed, so that the link survives.
    """
    check_output(destination, force=force)
    if destination.is_dir():
        raise OutputError(f"{destination}: is a folder; name a file in it")
    final = destination.resolve()
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.partial")
    try:
        with storage_errors(destination):
            yield temporary
            _flush_to_disk(temporary)
            temporary.chmod(0o666 & ~_umask())
            if destination.exists() and not force:  # somebody was faster
                raise OutputError(f"{destination}: exists already; give --force to replace it")
            temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(destination: Path, *, force: bool = False) -> Iterator[Path]:
    """Like `atomic_file`, for an output that is a folder; `force` replaces an existing one."""
    check_output(destination, force=force)
    if destination.is_file():
        raise OutputError(f"{destination}: is a file; name a folder")
    final = destination.resolve()
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.partial")
    try:
        with storage_errors(destination):
            temporary.mkdir()
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            if final.is_dir():
                old = final.with_name(f".{final.name}.{secrets.token_hex(4)}.old")
                final.rename(old)
                temporary.rename(final)
                shutil.rmtree(old)
            else:
                temporary.replace(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def storage_errors(destination: Path) -> Iterator[None]:
    """Turn an OSError about `destination` into one sentence with the cause."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
            raise OutputError(f"{destination}: cannot be made: {os.strerror(error.errno)}") from error
        cause = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(f"{destination}: writing failed: {cause}; nothing was left behind") from error


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    # Linux tells the umask without changing it; elsewhere it can only be read by setting it.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(stat.S_IWGRP | stat.S_IWOTH)
    os.umask(mask)
    return mask
