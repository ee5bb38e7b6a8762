"""Find the case a user means: by series UID, patient, hashed id, or the name of a file, folder or ZIP."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from medgen.config import nearest
from medgen.errors import DataError
from medgen.imaging.archive import Entry
from medgen.imaging.series import Stack


def stem_of(name: str) -> str:
    """File name without extension; `.nii.gz` counts as one."""
    file = PurePosixPath(name).name
    return file[:-7] if file.lower().endswith(".nii.gz") else PurePosixPath(file).stem


class CaseNames:
    """All names of all stacks, in memory only: none of them reaches an artifact."""

    def __init__(self, stacks: Sequence[Stack], ids: Sequence[str]) -> None:
        self._exact: dict[str, set[int]] = defaultdict(set)  # series UIDs and hashed ids
        self._loose: dict[str, set[int]] = defaultdict(set)  # patients, files, folders
        self._files: dict[str, list[tuple[int, int]]] = defaultdict(list)  # file name -> (stack, slice)
        self._stacks = stacks
        for index, (stack, case_id) in enumerate(zip(stacks, ids, strict=True)):
            self._exact[case_id].add(index)
            for position, item in enumerate(stack.slices):
                if item.series:
                    self._exact[item.series].add(index)
                if item.format == "dicom":
                    self._loose[item.patient].add(index)
                self._files[PurePosixPath(item.entry.within).name].append((index, position))
                for name in _containers(item.entry):
                    self._loose[name].add(index)
                    self._loose[stem_of(name)].add(index)

    def stack(self, name: str) -> int:
        """The stack called `name`. DataError if there is none, with the nearest name, or more than one."""
        found = self._exact.get(name) or self._loose.get(name)
        if not found:
            match = nearest(name, self._loose)
            raise DataError(f"no case '{name}' in the sources" + (f"; did you mean '{match}'?" if match else ""))
        if len(found) > 1:
            raise DataError(f"'{name}' means {len(found)} cases; use the series UID, or a 'path' column")
        return next(iter(found))

    def path(self, name: str, base: Path) -> tuple[int, int | None]:
        """(stack, slice) of the file `name`, relative to `base` or a source; slice None if it holds a whole stack."""
        wanted = PurePosixPath(name.replace("\\", "/"))
        absolute = (base / name).resolve()
        candidates = self._files.get(wanted.name, [])
        found = [spot for spot in candidates if self._is(spot, wanted, absolute)]
        stacks = {index for index, _ in found}
        if len(stacks) == 1:
            return (found[0][0], found[0][1]) if len(found) == 1 else (found[0][0], None)
        if len(stacks) > 1:
            raise DataError(f"'{name}' means {len(stacks)} cases; give more of the path, or a 'case' column")
        if not candidates and (wanted.name in self._loose or stem_of(name) in self._loose):
            return self.stack(wanted.name if wanted.name in self._loose else stem_of(name)), None
        match = nearest(name, list(self._files))
        raise DataError(f"no file '{name}' in the sources" + (f"; did you mean '{match}'?" if match else ""))

    def _is(self, spot: tuple[int, int], wanted: PurePosixPath, absolute: Path) -> bool:
        entry = self._stacks[spot[0]].slices[spot[1]].entry
        if not entry.member and Path(entry.path).resolve() == absolute:
            return True
        parts = PurePosixPath(entry.within).parts
        return parts[-len(wanted.parts) :] == wanted.parts


def _containers(entry: Entry) -> list[str]:
    """Names of the file itself, of the ZIP and the folders around it."""
    return [entry.within, *PurePosixPath(entry.within).parts]
