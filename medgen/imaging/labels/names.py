"""Find the case a user means: by series UID, patient, id in a set, or the name of a file, folder or ZIP."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from medgen.artifacts.sharding import numbered
from medgen.config import did_you_mean
from medgen.errors import DataError
from medgen.imaging.reading.archive import Entry, real_path
from medgen.imaging.reading.series import SliceStack

_ID = re.compile(r"([0-9a-f]{12}-)?([0-9a-f]{16})(\.[0-9]+)?")  # perhaps patient, pixels, perhaps number
_NAMED = 4  # of several that a name could mean
_EXTENSION = re.compile(r"(?<=.)(\.nii\.gz|\.[A-Za-z][^.]*)$", re.IGNORECASE)
"""Begins with a letter: `1.2.840` and `case.7` differ from `1.2.841` and `case.8` in nothing but their last number."""


def stem_of(name: str) -> str:
    """File name without extension; `.nii.gz` counts as one, and a number after a dot is none."""
    return _EXTENSION.sub("", PurePosixPath(name).name)


class CaseNames:
    """All names of all stacks, in memory only: none of them is written to an artifact.

    `ids` computes the part of each stack's id that comes from the pixels, when it is first needed.
    """

    def __init__(self, stacks: Sequence[SliceStack], ids: Callable[[], Sequence[str]]) -> None:
        self._stacks = stacks
        self._make_ids = ids
        self._series: dict[str, set[int]] = defaultdict(set)  # by SeriesInstanceUID
        self._loose: dict[str, set[int]] = defaultdict(set)  # patients, files, folders
        self._files: dict[str, list[tuple[int, int]]] = defaultdict(list)  # file name -> (stack, slice)
        for index, stack in enumerate(stacks):
            for position, item in enumerate(stack.slices):
                if item.series:
                    self._series[item.series].add(index)
                if item.format == "dicom":
                    self._loose[item.patient].add(index)
                self._files[PurePosixPath(item.entry.within).name].append((index, position))
                for name in _containers(item.entry):
                    self._loose[name].add(index)

    def stack(self, name: str, series: str = "") -> int:
        """The stack called `name`, of this series. DataError if there is none, with the nearest name, or several."""
        found = self._series.get(name) or self._loose.get(name) or self._with_id(name)
        if not found:
            raise DataError(f"no case '{name}' in the sources{did_you_mean(name, self._loose)}")
        return self._only(found, name, series, "")

    def may_be(self, index: int, name: str) -> bool:
        """Whether `name` is, as far as files tell, not the name of other stacks only."""
        found = self._series.get(name) or self._loose.get(name)
        return not found or index in found

    def series(self, uid: str) -> int:
        """The stack of the series with this SeriesInstanceUID. DataError if there is none, or several."""
        if uid not in self._series:
            raise DataError(f"no series '{uid}' in the sources{did_you_mean(uid, self._series)}")
        return self._only(self._series[uid], uid, "", "")

    def path(self, name: str, base: Path, series: str = "") -> tuple[int, int | None]:
        """(stack, slice) of the file, folder or ZIP `name`, relative to `base` or a source, of this series.

        The slice is None where `name` holds a whole stack. DataError as for `stack`.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        absolute = real_path(base / name)
        candidates = self._files.get(wanted.name, [])
        spots = [spot for spot in candidates if self._is(spot, wanted, absolute)]
        if spots:
            index = self._only({index for index, _ in spots}, name, series, "give more of the path, or ")
            places = [place for spot, place in spots if spot == index]
            files = list(dict.fromkeys(self._stacks[index].slices[place].entry.name for place in places))
            if len(files) > 1:
                raise DataError(f"'{name}' means {_some(files)} of one case; give more of the path")
            return index, places[0] if len(places) == 1 else None
        loose = () if candidates else self._loose.get(wanted.name) or self._loose.get(stem_of(wanted.name))
        found = {index for index in loose or () if self._holds(index, wanted, absolute)}
        if not found:
            raise DataError(f"no file '{name}' in the sources{did_you_mean(name, self._files)}")
        return self._only(found, name, series, "give more of the path, or "), None

    @cached_property
    def _ids(self) -> list[str]:
        """The id of each stack in a set, without its patient; equal ids are numbered in order."""
        ids: dict[str, None] = {}
        for number, case_id in enumerate(self._make_ids()):
            ids[numbered(case_id, ids) if case_id else f"unreadable {number}"] = None
        return list(ids)

    def _with_id(self, name: str) -> set[int]:
        """The stack that has this id in a set; several where its patient is to tell it from others of equal pixels."""
        match = _ID.fullmatch(name)
        if not match:
            return set()
        patient, pixels, number = match.groups()
        same = {index for index, case_id in enumerate(self._ids) if case_id.partition(".")[0] == pixels}
        return same if patient else {index for index in same if self._ids[index] == pixels + (number or "")}

    def _only(self, found: set[int], name: str, series: str, otherwise: str) -> int:
        """The one stack of `found`, if need be by its series; else a DataError that lists them."""
        chosen = sorted(found & self._series.get(series, set()) if series else found)
        if len(chosen) == 1:
            return chosen[0]
        uids = [self._stacks[index].first.series for index in chosen or sorted(found)]
        if not chosen:
            raise DataError(f"'{name}' holds no series '{series}'; it has {_some(uids) if any(uids) else 'none'}")
        if all(uids) and len(set(uids)) == len(uids):
            told, remedy = _some(uids), "name one in a column 'series'"
        else:
            told = _some([f"{self._ids[index]} ({self._stacks[index].name})" for index in chosen])
            remedy = "name one by this id in a column 'case'"
        raise DataError(f"'{name}' means {len(chosen)} cases: {told}; {otherwise}{remedy}")

    def _is(self, spot: tuple[int, int], wanted: PurePosixPath, absolute: Path) -> bool:
        entry = self._stacks[spot[0]].slices[spot[1]].entry
        if not entry.member and real_path(entry.path) == absolute:
            return True
        parts = PurePosixPath(entry.within).parts
        return parts[-len(wanted.parts) :] == wanted.parts

    def _holds(self, index: int, wanted: PurePosixPath, absolute: Path) -> bool:
        """Whether slices of a stack lie in the file, folder or ZIP `wanted`, by all that is given of its path.

        Its extension may be another one, or left out.
        """
        names, above = {wanted.name, stem_of(wanted.name)}, wanted.parts[:-1]
        for entry in {item.entry for item in self._stacks[index].slices}:
            for file in (PurePosixPath(real_path(entry.path)) / entry.member, PurePosixPath(entry.within)):
                for place in (file, *file.parents):
                    around = place.parent.parts
                    if names.intersection(called(place, is_file=place == file)) and (
                        not above or around[-len(above) :] == above or around == absolute.parent.parts
                    ):
                        return True
        return False


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _containers(entry: Entry) -> set[str]:
    """Names of the file itself, of the ZIP and the folders around it."""
    file = PurePosixPath(entry.within)
    around = (name for place in (file, *file.parents) for name in called(place, is_file=place == file))
    return {entry.within, *around}


def called(place: PurePosixPath, *, is_file: bool) -> tuple[str, ...]:
    """The name of a place; that of a file or ZIP also without its extension, which folders do not have."""
    archive = place.suffix.lower() == ".zip"
    return (place.name, stem_of(place.name)) if is_file or archive else (place.name,)
