"""An incomplete output has a hidden name beside the final one, and is locked by the process that writes it.

The lock ends with the process, however it ends. So the leftovers of a killed process can be told by being unlocked, and
are removed the next time the same output is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from medgen.artifacts.outputs.manifest import MANIFEST


@contextlib.contextmanager
def partial_file(final: Path) -> Iterator[Path]:
    """A new empty file beside `final`, private to its owner; it is removed after the block unless it was renamed."""
    remove_abandoned(final)
    descriptor = None
    while descriptor is None:
        path = hidden_name(final, "partial")
        descriptor = _create_locked(path)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def partial_folder(final: Path) -> Iterator[Path]:
    """A new folder beside `final`, like `partial_file` for files; its lock is that of the manifest in it."""
    remove_abandoned(final)
    descriptor = None
    while descriptor is None:
        path = hidden_name(final, "partial")
        path.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # another process removed it as abandoned before we had the lock
            descriptor = _create_locked(path / MANIFEST)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def remove_abandoned(final: Path) -> None:
    """Remove what processes that have ended began to write for `final`."""
    for path in hidden_siblings(final, "partial"):
        if path.is_symlink():
            continue
        with locked(path / MANIFEST if path.is_dir() else path) as ours, contextlib.suppress(OSError):
            if not path.is_dir():
                if ours:
                    path.unlink()
            elif ours:
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.rmdir()  # left by a process that was killed before it could lock, if empty


@contextlib.contextmanager
def locked(file: Path) -> Iterator[bool]:
    """Inside the block, whether we hold the lock of `file`; not if another process does, or there is no such file."""
    with contextlib.ExitStack() as stack:
        ours = False
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        yield ours


def hidden_name(final: Path, suffix: str) -> Path:
    """A new name beside `final`."""
    return final.with_name(f".{final.name}.{secrets.token_hex(4)}.{suffix}")


def hidden_siblings(final: Path, suffix: str) -> list[Path]:
    """Existing paths under names that `hidden_name` gives."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.[0-9a-f]+\.{suffix}")
    try:
        return [path for path in final.parent.iterdir() if pattern.fullmatch(path.name)]
    except OSError:  # a folder that we may write in but not list
        return []


def _create_locked(path: Path) -> int | None:
    """A descriptor of a new, locked file; None if another process removed it as abandoned before it was locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks, where no file is ever removed as abandoned
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    os.close(descriptor)
    return None
