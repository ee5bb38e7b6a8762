"""Find the mask of each slice: by what DICOM objects refer to, by name in a folder or ZIP, or by a pattern."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medgen.errors import DataError, InputMissingError
from medgen.imaging.labels.names import stem_of
from medgen.imaging.masks.matching import Drawn, SliceMasks, fits, layered, matched_slices, scan_drawn
from medgen.imaging.reading.archive import Entry, enumerate_sources
from medgen.imaging.reading.series import SliceStack

# Folders of masks beside folders of images, in lower case, and what the names of masks beside images end in.
_FOLDERS = {"mask", "masks", "segmentation", "segmentations", "labelstr", "labelsts"}
_WORD = "mask|seg|segmentation|label|gt|groundtruth|annotation|manual"
_ENDING = re.compile(r"(.+)[-_. ](?:mask|seg|segmentation)", re.IGNORECASE)
_MASK_WORD = re.compile(rf"(.+)[-_. ](?:{_WORD})s?", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_\d{4}")  # of nnU-Net, after the case
_NO_WORD = re.compile(r"(.+)[-_. ][A-Za-z]+")


def without_masks(entries: Sequence[Entry], sources: Sequence[str]) -> list[Entry]:
    """The entries without masks, which are known by folder (`masks` below the source) or name (`a_mask` beside `a`).

    A file or folder that the user named explicitly is never left out.
    """
    places = [_place(entry, sources[entry.source]) for entry in entries]
    images = {(*place[:-1], stem_of(place[-1])) for place in places if place}
    kept = []
    for entry, place in zip(entries, places, strict=True):
        ending = _ENDING.fullmatch(stem_of(place[-1])) if place else None
        beside = ending and (*place[:-1], ending[1]) in images
        if not beside and not _FOLDERS.intersection(folder.lower() for folder in place[:-1]):
            kept.append(entry)
    return kept


def _place(entry: Entry, source: str) -> tuple[str, ...]:
    """Folders and name of a file below its source; nothing for the source itself."""
    outer = Path(entry.path).relative_to(source).parts
    return (*outer, *PurePosixPath(entry.member).parts) if entry.member else outer


@dataclass(frozen=True)
class Target:
    """A stack, or one of its slices, and the names that its mask may be named after, the closest first."""

    stack: SliceStack
    index: int | None
    names: tuple[str, ...]

    @property
    def image(self) -> Entry:
        """The file that the mask is called after."""
        return self.stack.slices[self.index or 0].entry


Rank = tuple[int, int]
"""How well a name fits: the less, the better."""


class Masks:
    """All masks below a place.

    A DICOM segmentation or structure set belongs to the series that it refers to. Any other file belongs to the image
    whose stem it has, or begins with (`4.jpg`, `4-mask.png`), or whose stem differs in the last word only
    (`a_frame.jpg`, `a_mask.jpg`); with a pattern such as `masks/{stem}_seg.png` exactly that file does. Of several
    images it belongs to the one that fits best. Each file of a series may have a mask of its own.
    """

    def __init__(self, place: str, pictures: Collection[tuple[str, str]], stacks: Sequence[SliceStack]) -> None:
        """Assign the files at `place`, except the `pictures` (path, member), to `stacks`."""
        self._pattern = place if "{stem}" in place else ""
        every = [] if self._pattern else _all(place)
        entries = [entry for entry in every if (entry.path, entry.member) not in pictures]
        self._drawn: list[Drawn] = []
        self.unreadable: list[str] = []  # why DICOM objects cannot be read
        named: list[Entry] = []
        for entry in entries:
            try:
                found = scan_drawn(entry)
            except DataError as error:
                self.unreadable.append(str(error))
                continue
            if found is None:
                named.append(entry)
            else:
                self._drawn.append(found)
        self._by_stem: dict[str, list[Entry]] = defaultdict(list)
        self._by_beginning: dict[str, list[Entry]] = defaultdict(list)
        self._by_trunk: dict[str, list[Entry]] = defaultdict(list)
        for entry in named:
            self._index(entry)
        self.single = Path(place).is_file() and len(entries) == 1
        self._found: dict[str, dict[int, Entry]] = {}  # the mask of each slice, by the key of the stack
        self._faults: dict[str, str] = {}
        self._used: set[Entry] = set()
        if self.single and len(named) == len(stacks) == 1:
            self._take(stacks[0], {None: named[0]})
        else:
            self._assign(stacks)
        self.orphans = [entry for entry in named if entry not in self._used]
        self.orphans += [one.entry for one in self._drawn if not any(one.belongs_to(stack) for stack in stacks)]

    def of_stack(self, stack: SliceStack) -> SliceMasks | None:
        """The mask of each slice; None if there is none. DataError for one that does not fit, and for several."""
        if fault := self._faults.get(stack.key):
            raise DataError(fault)
        drawn = [one for one in self._drawn if one.belongs_to(stack)]
        found = self._found.get(stack.key, {})
        if drawn and found:
            raise DataError(f"{stack.name}: has two masks, {drawn[0].entry.name} and {next(iter(found.values())).name}")
        return layered(drawn, stack) if drawn else matched_slices(found, stack)

    def _index(self, entry: Entry) -> None:
        stem = stem_of(entry.member or entry.path)
        self._by_stem[stem].append(entry)
        for beginning in _beginnings(stem):
            self._by_beginning[beginning].append(entry)
        if ending := _MASK_WORD.fullmatch(stem):
            self._by_trunk[ending[1]].append(entry)

    def _assign(self, stacks: Sequence[SliceStack]) -> None:
        """Each file to the targets that its name fits best, then each stack its best files."""
        wanted: dict[Entry, list[tuple[Rank, Target]]] = defaultdict(list)
        for target in _targets(stacks):
            for rank, entry in self._candidates(target):
                wanted[entry].append((rank, target))
        best: dict[str, list[tuple[Rank, Target, Entry]]] = defaultdict(list)
        for entry, claims in wanted.items():
            least = min(rank for rank, _ in claims)
            targets = [target for rank, target in claims if rank == least]
            owners = _owners(entry, targets)
            if not owners:
                names = " and ".join(dict.fromkeys(target.stack.name for target in targets[:2]))
                self._faults |= {
                    target.stack.key: f"{entry.name}: is the mask of both {names} by its name" for target in targets
                }
                self._used.add(entry)
            for target in owners:
                best[target.stack.key].append((least, target, entry))
        for stack in stacks:
            if stack.key in best and stack.key not in self._faults:
                self._choose(stack, best[stack.key])

    def _choose(self, stack: SliceStack, claims: Sequence[tuple[Rank, Target, Entry]]) -> None:
        """Masks of single slices if there are several, else the mask of all."""
        single = {target.index for _, target, _ in claims} - {None}
        found: dict[int | None, list[tuple[Rank, Entry]]] = defaultdict(list)
        for rank, target, entry in claims:
            if (target.index is not None) == (len(single) > 1):
                found[target.index].append((rank, entry))
        chosen: dict[int | None, Entry] = {}
        for index, ranked in found.items():
            least = min(rank[0] for rank, _ in ranked)
            entries = [entry for rank, entry in ranked if rank[0] == least]
            chosen[index] = entries[0]
            if len(entries) > 1:
                self._used.update(entries)
                self._faults[stack.key] = (
                    f"{stack.name}: has {len(entries)} masks, such as {entries[0].name} and {entries[1].name}; "
                    "give a pattern with {stem}"
                )
        self._take(stack, chosen)

    def _take(self, stack: SliceStack, chosen: Mapping[int | None, Entry]) -> None:
        whole = chosen.get(None)
        self._found[stack.key] = (
            dict.fromkeys(range(len(stack.slices)), whole)
            if whole
            else {index: entry for index, entry in chosen.items() if index is not None}
        )
        self._used.update(chosen.values())

    def _candidates(self, target: Target) -> Iterator[tuple[Rank, Entry]]:
        """Files that may be the mask of a target, by the closest of its names that has some."""
        for order, name in enumerate(target.names):
            found = [
                ((3 * order + kind, -len(name)), entry)
                for kind, entries in self._lookups(name)
                for entry in _nearest(entries, target.image)
            ]
            yield from found
            if found:
                return

    def _lookups(self, stem: str) -> Iterator[tuple[int, list[Entry]]]:
        if self._pattern:
            path = Path(self._pattern.replace("{stem}", stem))
            yield 0, [Entry(str(path), "", path.stat().st_size, 0, path.name)] if path.is_file() else []
            return
        yield 0, self._by_stem.get(stem, [])
        if channel := _CHANNEL.fullmatch(stem):
            yield 0, self._by_stem.get(channel[1], [])
        yield 1, self._by_beginning.get(stem, [])
        if trunk := _NO_WORD.fullmatch(stem):
            yield 2, self._by_trunk.get(trunk[1], [])


def _all(place: str) -> list[Entry]:
    if not Path(place).exists():
        raise InputMissingError(f"{place}: no such folder of masks")
    return enumerate_sources([place]).entries


def _targets(stacks: Sequence[SliceStack]) -> Iterator[Target]:
    """Each stack, and each slice of those that lie in several files."""
    for stack in stacks:
        yield Target(stack, None, tuple(_names(stack)))
        if len({item.entry for item in stack.slices}) > 1:
            for index, item in enumerate(stack.slices):
                yield Target(stack, index, (stem_of(item.entry.member or item.entry.path),))


def _owners(entry: Entry, targets: Sequence[Target]) -> list[Target]:
    """The targets, of several with the same name, that a mask belongs to; none if it is ambiguous."""
    stacks = list({target.stack.key: target.stack for target in targets}.values())
    if len(stacks) == 1:
        return list(targets)
    keys = {stack.key for stack in stacks if fits(entry, stack)}
    files = {stack.first.entry.path for stack in stacks if stack.key in keys}
    if len(files) == 1:  # several phases in one file share their mask
        return [target for target in targets if target.stack.key in keys]
    same = len({stack.first.entry.path for stack in stacks}) == 1
    return list(targets) if same else []


def _names(stack: SliceStack) -> list[str]:
    """The names that a mask of a stack may be named after, the closest first."""
    first = stack.first.entry
    names = [stem_of(first.member or first.path)]
    if len(stack.slices) > 1 or first.member:
        folders = reversed(first.within.split("/")[:-1])
        names += [stem_of(first.path), *(stem_of(name) if name.endswith(".zip") else name for name in folders)]
    return list(dict.fromkeys(filter(None, names)))


def _nearest(found: Sequence[Entry], image: Entry) -> list[Entry]:
    """Of several files, those in a folder with the same name as the image's, if there are any."""
    folder = PurePosixPath(image.within).parts[1:-1]
    near = [entry for entry in found if PurePosixPath(entry.within).parts[1:-1] == folder]
    return near or list(found)


def _beginnings(stem: str) -> list[str]:
    """`a_b-mask` -> `a_b`, `a`: what an image's stem may be."""
    return [stem[: match.start()] for match in re.finditer(r"[-_. ]", stem) if match.start()]
