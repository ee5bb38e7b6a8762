"""Find the source files: single files, folders (recursively) and ZIPs, whose members are read without unpacking."""

from __future__ import annotations

import contextlib
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import IO

from medgen.errors import DataError, InputMissingError
from medgen.imaging.reading.faults import one_line

MAX_FILE_BYTES = 8 << 30  # one file or member, inflated
MAX_ARCHIVE_BYTES = 256 << 30  # all members of an archive, inflated
MAX_MEMBERS = 500_000
SAMPLE_BYTES = 1 << 14
# A deflated blank slice shrinks 1000 times, so the ratio counts for the whole archive, and only when it is large.
MAX_RATIO = 200
RATIO_FREE_BYTES = 1 << 30

_ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst"}
_NO_IMAGES = {
    *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log", ".pdf"),
    *(".html", ".htm", ".css", ".js", ".py", ".sh", ".ipynb", ".doc", ".docx", ".xls", ".xlsx", ".npy", ".npz", ".h5"),
    *(".safetensors", ".exe", ".inf", ".db", ".bat", ".jar", ".dll", ".bval", ".bvec"),
}
_NO_IMAGE_NAMES = {"dicomdir", "readme", "license", "licence", "makefile", "changelog", "lockfile", "version"}


def real_path(path: Path | str) -> Path:
    """The absolute path, with links followed as far as they lead; `Path.resolve` may fail at circular ones."""
    return Path(os.path.realpath(path))


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to read: on disk, or a member of a ZIP."""

    path: str
    member: str = ""
    size: int = 0
    source: int = 0  # index of the SOURCE it came from
    within: str = ""  # its name from that source on, with / between the parts

    @property
    def name(self) -> str:
        """The name shown to the user."""
        return f"{self.path}!{self.member}" if self.member else self.path

    @property
    def suffix(self) -> str:
        """Lower-case extension; `.nii.gz` counts as one."""
        file = PurePosixPath(self.member or self.path).name.lower()
        return ".nii.gz" if file.endswith(".nii.gz") else PurePosixPath(file).suffix

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open for reading; a member is inflated only as far as it is read. DataError if the archive is damaged."""
        if not self.member:
            with open_file(self.path) as file:
                yield file
            return
        try:
            file = _opened(self.path).open(self.member)
        except Exception as error:  # zipfile raises what it likes at headers that do not fit each other
            raise DataError(f"{self.name}: cannot be opened in the archive ({one_line(error)})") from None
        with file:
            try:
                yield file
            except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
                raise DataError(f"{self.name}: damaged in the archive ({one_line(error)})") from None

    def read(self) -> bytes:
        """The whole content; DataError if it is damaged or larger than it may be."""
        content = self.head(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise DataError(f"{self.name}: larger than {MAX_FILE_BYTES >> 30} GiB, which no image should be")
        return content

    def sample(self) -> str:
        """A digest of some of the content, which distinguishes files without reading all of them."""
        with self.open() as file:
            if not self.member:  # in an archive all before it would have to be inflated
                file.seek(max(0, (self.size - SAMPLE_BYTES) // 2))
            return digest_of_sample(file)

    def head(self, count: int) -> bytes:
        """The first `count` bytes."""
        with self.open() as file:
            return file.read(count)


@dataclass
class FilesFound:
    """The contents of the sources: files to read, how many were skipped, and which were rejected and why."""

    entries: list[Entry] = field(default_factory=list)
    skipped: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)  # (name, reason)


def digest_of_sample(file: IO[bytes]) -> str:
    """A digest of what comes next in an open file."""
    return blake2b(file.read(SAMPLE_BYTES), digest_size=16).hexdigest()


def enumerate_sources(sources: Sequence[str], *, folder_names: bool = True) -> FilesFound:
    """All files of `sources`, in the order of the sources and sorted by name below each.

    The name `within` begins with the folder's own name, unless `folder_names` is off: then equally named files of two
    folders have the same name.

    A source that is itself a file is always included; in folders and archives, files whose names are not those of
    images are skipped. Raises InputMissingError for a source that does not exist, DataError for an empty one.
    """
    found = FilesFound()
    for index, source in enumerate(sources):
        before = len(found.entries), len(found.refused)
        path = Path(source)
        if not path.exists():
            raise InputMissingError(f"{source}: no such file or folder")
        if path.is_dir():
            name = f"{real_path(path).name}/" if folder_names else ""
            for file in _walk(path, found):
                _add_file(found, file, index, f"{name}{file.relative_to(path).as_posix()}", named=False)
        else:
            _add_file(found, path, index, path.name, named=True)
        if (len(found.entries), len(found.refused)) == before:
            raise DataError(f"{source}: holds no images (DICOM, NIfTI, PNG, JPG, or ZIPs of them)")
    return found


def open_file(path: str) -> IO[bytes]:
    """Open for reading; the cause becomes an InputMissingError."""
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise InputMissingError(f"{path}: {error.strerror}") from None


def _walk(folder: Path, found: FilesFound) -> Iterator[Path]:
    """The files below `folder`, sorted; links to folders are followed, but no folder is entered twice."""

    def refuse(error: OSError) -> None:
        found.refused.append((str(error.filename), str(error.strerror)))

    entered: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files))


def _add_file(found: FilesFound, path: Path, source: int, within: str, *, named: bool) -> None:
    if not named and not may_be_image(within):
        found.skipped += 1
        return
    try:
        status = path.stat()
    except OSError as error:
        found.refused.append((str(path), "a link that leads nowhere" if path.is_symlink() else str(error.strerror)))
        return
    if not stat.S_ISREG(status.st_mode):
        if named:
            found.refused.append((str(path), "neither a file nor a folder"))
        else:  # sockets and pipes lie in folders of programs, not of images
            found.skipped += 1
    elif (named or path.suffix.lower() == ".zip") and zipfile.is_zipfile(path):
        _add_archive(found, path, source, within)
    elif path.suffix.lower() == ".zip":
        found.refused.append((str(path), "not a readable ZIP file; it may be cut short"))
    elif _is_archive(path.name):
        found.refused.append((str(path), "an archive of this kind is not read; unpack it, or use ZIP"))
    else:
        found.entries.append(Entry(str(path), "", status.st_size, source, within))


def _add_archive(found: FilesFound, path: Path, source: int, within: str) -> None:
    try:
        members = _opened(str(path)).infolist()
        reason = _bomb(members, path.stat().st_size)
    except Exception as error:  # a damaged directory makes zipfile raise what it likes
        reason = f"not a readable ZIP file ({one_line(error)})"
    if reason:
        found.refused.append((str(path), reason))
        return
    seen: set[str] = set()
    for member in sorted(members, key=lambda info: info.filename):
        name = member.filename
        if member.is_dir() or name.startswith("__MACOSX/"):
            continue
        entry = Entry(str(path), name, member.file_size, source, f"{within}/{name}")
        if name in seen:
            found.refused.append((entry.name, "this name occurs twice in the archive"))
        elif reason := _trick(member):
            found.refused.append((entry.name, reason))
        elif may_be_image(name):
            found.entries.append(entry)
        else:
            found.skipped += 1
        seen.add(name)


def _bomb(members: Sequence[zipfile.ZipInfo], size: int) -> str:
    """Why the archive must not be read at all, or ""."""
    if len(members) > MAX_MEMBERS:
        return f"has {len(members)} members, more than the {MAX_MEMBERS} that are read; split it"
    total = sum(member.file_size for member in members)
    if total > MAX_ARCHIVE_BYTES or (total > RATIO_FREE_BYTES and total > MAX_RATIO * size):
        return f"would inflate from {_bytes(size)} to {_bytes(total)}: refused as a zip bomb"
    end = 0
    for member in sorted(members, key=lambda info: info.header_offset):
        if member.header_offset < end:
            return "its members overlap: refused as a zip bomb"
        end = member.header_offset + 30 + len(member.filename) + member.compress_size
    return ""


def _trick(member: zipfile.ZipInfo) -> str:
    """Why this member must not be read, or ""."""
    parts = PurePosixPath(member.filename.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or (len(member.filename) > 1 and member.filename[1] == ":"):
        return "the name points outside the archive; refused"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a symbolic link inside the archive; refused"
    if member.flag_bits & 1:
        return "is encrypted; decrypt the archive first"
    if member.file_size > MAX_FILE_BYTES:
        return f"would inflate to {_bytes(member.file_size)}: refused"
    if _is_archive(member.filename):
        return "an archive inside an archive; unpack the outer one first"
    return ""


def _is_archive(name: str) -> bool:
    lower = name.lower()
    return PurePosixPath(lower).suffix in _ARCHIVES and not lower.endswith(".nii.gz")


def may_be_image(name: str) -> bool:
    """Whether a file below a folder is worth opening, judged by its name."""
    file = PurePosixPath(name).name.lower()
    stem, suffix = PurePosixPath(file).stem, PurePosixPath(file).suffix
    return not (file.startswith((".", "._")) or suffix in _NO_IMAGES or (stem in _NO_IMAGE_NAMES and suffix == ""))


@lru_cache(maxsize=4)
def _opened(path: str) -> zipfile.ZipFile:
    """Archives stay open between members; a worker process has its own."""
    return zipfile.ZipFile(path)


def _bytes(count: int) -> str:
    return f"{count / (1 << 30):.3g} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.3g} MiB"
