"""Which files of a folder medgen wrote, so that it removes no others."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

MANIFEST = ".medgen.json"
"""Name of the manifest, a file in the folder itself."""
LEFT_BY_VIEWERS = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""Files that file browsers put into each folder that they show; they can be removed."""
_SCHEMA = "medgen.folder/1"


class _Manifest(msgspec.Struct, frozen=True):
    files: dict[str, int]
    """Size of each file in bytes, by its path in the folder."""
    schema: str = _SCHEMA


def write_manifest(folder: Path) -> None:
    """List what is in `folder` now. Whatever is changed afterwards is newer than the list."""
    written = {path: path.lstat() for path in _entries(folder)}
    sizes = {path.relative_to(folder).as_posix(): facts.st_size for path, facts in sorted(written.items())}
    manifest = folder / MANIFEST
    manifest.write_bytes(msgspec.json.format(msgspec.json.encode(_Manifest(sizes)), indent=2) + b"\n")
    youngest = max((facts.st_mtime_ns for facts in written.values()), default=0)
    if youngest > manifest.stat().st_mtime_ns:  # the clock was set back meanwhile
        os.utime(manifest, ns=(youngest, youngest))


def not_ours(folder: Path) -> Path | None:
    """The path in `folder` of something that medgen did not write there, or that was changed since."""
    sizes, listed = {}, 0
    with contextlib.suppress(OSError, msgspec.DecodeError):
        manifest = folder / MANIFEST
        sizes = msgspec.json.decode(manifest.read_bytes(), type=_Manifest).files
        listed = manifest.stat().st_mtime_ns
    for path in _entries(folder):
        facts = path.lstat()
        if path.name in LEFT_BY_VIEWERS and stat.S_ISREG(facts.st_mode):
            continue
        size = sizes.get(path.relative_to(folder).as_posix())
        if not stat.S_ISREG(facts.st_mode) or facts.st_size != size or facts.st_mtime_ns > listed:
            return path.relative_to(folder)
    return None


def remove_ours(folder: Path) -> None:
    """Remove a folder in which everything is ours; if others have added files meanwhile, these and the folder stay."""
    if not_ours(folder) is not None:
        return
    for path in _entries(folder):
        path.unlink()
    (folder / MANIFEST).unlink(missing_ok=True)
    for parent, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(parent).rmdir()


def _entries(folder: Path) -> Iterator[Path]:
    """All files and links in a folder and below, except its manifest."""

    def stop(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=stop):
        for name in sorted([*files, *(name for name in folders if Path(parent, name).is_symlink())]):
            path = Path(parent, name)
            if path != folder / MANIFEST:
                yield path
