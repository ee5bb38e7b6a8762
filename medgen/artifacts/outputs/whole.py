"""Outputs appear complete, by a rename in the destination folder, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from medgen.artifacts.outputs.manifest import MANIFEST, not_ours, remove_ours, write_manifest
from medgen.artifacts.outputs.partial import hidden_name, hidden_siblings, locked, partial_file, partial_folder
from medgen.errors import OutputError, StorageError


def check_output(destination: Path, *, force: bool = False) -> None:
    """Refuse early what would fail at the end: an existing output, or a folder that cannot take one.

    Not even `force` replaces a device, pipe or socket: a rename over /dev/null would remove it for the whole machine.
    """
    if destination.exists() and not (destination.is_file() or destination.is_dir()):
        raise OutputError(f"{destination}: is a device or pipe; give a file, or - for standard output")
    if destination.exists() and not force:
        raise _existing(destination)
    folder = _resolved(destination).parent
    if not folder.is_dir():
        raise OutputError(f"{destination}: folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{destination}: no permission to write in {folder}")


@contextlib.contextmanager
def atomic_file(destination: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `destination`; on success it is renamed to it, on any failure it is removed.

    A symbolic link as destination is followed, so that the link survives. A replaced file passes on its mode and, where
    permitted, its owner to the new one.
    """
    check_output(destination, force=force)
    if destination.is_dir():
        raise OutputError(f"{destination}: is a folder; name a file in it")
    final = _resolved(destination)
    with storage_errors(destination), partial_file(final) as temporary:
        yield temporary
        _flush_to_disk(temporary)
        _set_mode(temporary, final, 0o666)
        if force:
            temporary.replace(final)
        else:
            _rename_onto_nothing(temporary, final, destination)


@contextlib.contextmanager
def atomic_folder(destination: Path, *, force: bool = False) -> Iterator[Path]:
    """Like `atomic_file`, for an output that is a folder. `force` replaces only a folder that medgen made."""
    final = _resolved(destination)
    with storage_errors(destination):
        _settle(final)
        if destination.is_dir():
            _check_replaceable(final, destination)
        check_output(destination, force=force)
        if destination.is_file():
            raise OutputError(f"{destination}: is a file; name a folder")
        with partial_folder(final) as temporary:
            yield temporary
            write_manifest(temporary)
            (temporary / MANIFEST).chmod(0o666 & ~_umask())
            _set_mode(temporary, final, 0o777)
            if force and final.exists():
                _replace_folder(temporary, final, destination)
            else:
                _rename_folder_onto_nothing(temporary, final, destination)


def _rename_onto_nothing(temporary: Path, final: Path, destination: Path) -> None:
    try:
        os.link(temporary, final)  # unlike a rename, fails if another process was faster
    except FileExistsError:
        raise _existing(destination) from None
    except OSError:  # a file system without links
        if final.exists():
            raise _existing(destination) from None
        temporary.replace(final)


def _rename_folder_onto_nothing(temporary: Path, final: Path, destination: Path) -> None:
    try:
        temporary.rename(final)  # fails if `final` is a file or a non-empty folder; ours is never empty
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _existing(destination) from None
        raise


def _replace_folder(temporary: Path, final: Path, destination: Path) -> None:
    """Replace a folder of ours by `temporary`: the old one is moved aside, checked once more, and removed."""
    aside = hidden_name(final, "old")
    with locked(final / MANIFEST):  # so that no other process runs `_settle` on it meanwhile
        with contextlib.suppress(FileNotFoundError):
            final.rename(aside)
        try:
            if aside.exists():
                _check_replaceable(aside, destination)
            _rename_folder_onto_nothing(temporary, final, destination)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.rename(final)
            raise
        with contextlib.suppress(OSError):
            remove_ours(aside)


def _settle(final: Path) -> None:
    """Finish what a process killed in `_replace_folder` left: the folder moved aside is put back, or removed."""
    for aside in hidden_siblings(final, "old"):
        with locked(aside / MANIFEST) as ours, contextlib.suppress(OSError):
            if ours and final.exists():
                remove_ours(aside)
            elif ours:
                aside.rename(final)


def _check_replaceable(folder: Path, destination: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # the folder we are in may be gone
        if Path.cwd().is_relative_to(folder):
            raise OutputError(f"{destination}: is the folder you are in, or above it; name another")
    if (path := not_ours(folder)) is not None:
        raise OutputError(
            f"{destination}: holds {path}, which medgen did not write or which was changed since, and is not replaced; "
            "name another folder, or remove it yourself"
        )


def _resolved(destination: Path) -> Path:
    final = Path(os.path.realpath(destination))
    if final.is_symlink():
        raise OutputError(f"{destination}: cannot be made: its links lead in a circle")
    return final


def _existing(destination: Path) -> OutputError:
    return OutputError(f"{destination}: exists already; give --force to replace it")


def _set_mode(temporary: Path, final: Path, new: int) -> None:
    """Set the mode and owner of the replaced file; if nothing is replaced, the mode `new` less the umask."""
    if not final.exists():
        temporary.chmod(new & ~_umask())
        return
    replaced = final.stat()
    with contextlib.suppress(OSError):
        os.chown(temporary, replaced.st_uid, replaced.st_gid)
    temporary.chmod(stat.S_IMODE(replaced.st_mode))


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
    # Linux shows the umask without changing it; elsewhere it can only be read by setting it.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(stat.S_IWGRP | stat.S_IWOTH)
    os.umask(mask)
    return mask
