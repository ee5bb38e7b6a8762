"""Find the mask of each slice: by what DICOM objects refer to, by name in a folder or ZIP, or by a pattern."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pydicom

from medgen.errors import DataError, InputMissingError
from medgen.imaging.labels.names import stem_of
from medgen.imaging.masks.contours import Structures, scan_structures
from medgen.imaging.masks.segmentation import Segmentation, scan_segmentation
from medgen.imaging.masks.sources import Layer, LayeredMask, MaskSource, PictureMask
from medgen.imaging.reading import formats
from medgen.imaging.reading.archive import Entry, enumerate_sources
from medgen.imaging.reading.faults import NoPicture, failing_as
from medgen.imaging.reading.raster import is_jpeg
from medgen.imaging.reading.series import Stack, build_stacks
from medgen.imaging.reading.slices import SliceFacts

# Folders of masks beside folders of images, in lower case, and what the names of masks beside images end in.
_FOLDERS = {"mask", "masks", "segmentation", "segmentations", "labelstr", "labelsts"}
_WORD = "mask|seg|segmentation|label|gt|groundtruth|annotation|manual"
_ENDING = re.compile(r"(.+)[-_. ](?:mask|seg|segmentation)", re.IGNORECASE)
_MASK_WORD = re.compile(rf"(.+)[-_. ](?:{_WORD})s?", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_\d{4}")  # of nnU-Net, after the case
_NO_WORD = re.compile(r"(.+)[-_. ][A-Za-z]+")

SliceMasks = list[MaskSource | None]
"""Of each slice of a stack."""
Drawn = Segmentation | Structures


def without_masks(entries: Sequence[Entry], sources: Sequence[str]) -> list[Entry]:
    """Those that are no masks by their place or name: in no folder `masks` below their source, no `a_mask` beside `a`.

    What the user named itself is taken as it is, be it a file or a folder.
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
class Claim:
    """A file that may be the mask of a stack; of several stacks that claim it, those with the least `rank` get it."""

    entry: Entry
    rank: tuple[int, int]


class Masks:
    """All masks below a place.

    A DICOM segmentation or structure set belongs to the series that it refers to. Any other file belongs to the image
    whose stem it has, or begins with (`4.jpg`, `4-mask.png`), or whose stem differs in the last word only
    (`a_frame.jpg`, `a_mask.jpg`); with a pattern such as `masks/{stem}_seg.png` exactly that file does.
    """

    def __init__(self, place: str, pictures: Collection[tuple[str, str]], stacks: Sequence[Stack]) -> None:
        """Assign what lies at `place`, but for the `pictures` (path, member), to `stacks`."""
        self._pattern = place if "{stem}" in place else ""
        self.drawn: list[Drawn] = []
        self._by_stem: dict[str, list[Entry]] = defaultdict(list)
        self._by_beginning: dict[str, list[Entry]] = defaultdict(list)
        self._by_trunk: dict[str, list[Entry]] = defaultdict(list)
        entries = (
            [] if self._pattern else [entry for entry in _all(place) if (entry.path, entry.member) not in pictures]
        )
        named = []
        for entry in entries:
            if (found := scan_drawn(entry)) is not None:
                self.drawn.append(found)
            else:
                named.append(entry)
                self._index(entry)
        self._claims: dict[str, Claim] = {}
        self._faults: dict[str, str] = {}
        self.single = Path(place).is_file() and len(entries) == 1
        self._ambiguous: set[Entry] = set()  # masks of which nobody knows whose they are
        if Path(place).is_file() and len(named) == len(entries) == len(stacks) == 1:
            self._claims[stacks[0].key] = Claim(named[0], (0, 0))
        else:
            self._claim(stacks)
        used = {claim.entry for claim in self._claims.values()} | self._ambiguous
        self.orphans = [entry for entry in named if entry not in used]
        self.orphans += [one.entry for one in self.drawn if not any(one.belongs_to(stack) for stack in stacks)]

    def of_stack(self, stack: Stack) -> SliceMasks | None:
        """The mask of each slice; None if there is none. DataError for one that does not fit, and for several."""
        if fault := self._faults.get(stack.key):
            raise DataError(fault)
        drawn = [one for one in self.drawn if one.belongs_to(stack)]
        claim = self._claims.get(stack.key)
        if drawn and claim:
            raise DataError(f"{stack.name}: has two masks, {drawn[0].entry.name} and {claim.entry.name}")
        if drawn:
            return layered(drawn, stack)
        return matched(claim.entry, stack) if claim else None

    def _index(self, entry: Entry) -> None:
        stem = stem_of(entry.member or entry.path)
        self._by_stem[stem].append(entry)
        for beginning in _beginnings(stem):
            self._by_beginning[beginning].append(entry)
        if ending := _MASK_WORD.fullmatch(stem):
            self._by_trunk[ending[1]].append(entry)

    def _claim(self, stacks: Sequence[Stack]) -> None:
        """Give each file to the stacks whose names fit it best; a file that fits several files equally is a fault."""
        wanted: dict[Entry, list[tuple[Stack, Claim]]] = defaultdict(list)
        for stack in stacks:
            found, claim = self._candidates(stack)
            if len(found) > 1:
                self._ambiguous.update(found)
                self._faults[stack.key] = (
                    f"{stack.name}: has {len(found)} masks, such as {found[0].name} and {found[1].name}; "
                    "give a pattern with {stem}"
                )
            elif claim:
                wanted[claim.entry].append((stack, claim))
        for entry, claims in wanted.items():
            least = min(claim.rank for _, claim in claims)
            best = [stack for stack, claim in claims if claim.rank == least]
            if len({stack.first.entry.path for stack in best}) > 1:
                names = f"{best[0].name} and {best[1].name}"
                self._faults |= {stack.key: f"{entry.name}: is the mask of both {names} by its name" for stack in best}
                self._ambiguous.add(entry)
                continue
            fitting = [stack for stack in best if len(best) == 1 or _fits(entry, stack)]
            self._claims |= {stack.key: Claim(entry, least) for stack in fitting or best}

    def _candidates(self, stack: Stack) -> tuple[list[Entry], Claim | None]:
        """The files of the best name that has some, and the claim to the only one."""
        for order, name in enumerate(_names(stack)):
            for kind, found in self._lookups(name):
                near = _nearest(found, stack.first.entry)
                if near:
                    return near, Claim(near[0], (3 * order + kind, -len(name)))
        return [], None

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


def scan_drawn(entry: Entry) -> Drawn | None:
    """The segmentation or structure set that a file holds; None for any other file."""
    with failing_as(entry.name, "not a readable DICOM file"):
        if entry.head(132)[128:] != b"DICM" and entry.suffix not in (".dcm", ".dicom"):
            return None
        with entry.open() as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=["Modality"])
        modality = header.get("Modality")
        if modality not in ("SEG", "RTSTRUCT"):
            return None
        with entry.open() as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        return scan_segmentation(entry, dataset) if modality == "SEG" else scan_structures(entry, dataset)


def layered(drawn: Sequence[Drawn], stack: Stack) -> SliceMasks:
    """What DICOM objects draw over each slice. DataError if two draw the same class, or one does not fit the slices."""
    layers: list[list[Layer]] = [[] for _ in stack.slices]
    owners: dict[str, Entry] = {}
    for one in drawn:
        for index, found in enumerate(one.layers(stack)):
            for layer in found:
                owner = owners.setdefault(layer.name, one.entry)
                if owner != one.entry:
                    raise DataError(
                        f"{one.entry.name}: shows '{layer.name}' on {stack.name}, and so does {owner.name}; keep one"
                    )
                layers[index].append(layer)
    size = stack.first.rows, stack.first.columns
    return [LayeredMask(tuple(found), *size) if found else None for found in layers]


def matched(entry: Entry, stack: Stack) -> SliceMasks:
    """The slices of a file for those of an image, where both have positions by these. DataError if they do not fit."""
    if (drawn := scan_drawn(entry)) is not None:
        return layered([drawn], stack)
    facts = _scan(entry)
    if len(facts) != len(stack.slices):
        raise DataError(f"{entry.name}: has {len(facts)} slices, its image {stack.name} has {len(stack.slices)}")
    for image, mask in zip(stack.slices, facts, strict=True):
        if (mask.rows, mask.columns) != (image.rows, image.columns):
            raise DataError(
                f"{entry.name}: has {mask.columns} x {mask.rows} pixels, its image {stack.name} has "
                f"{image.columns} x {image.rows}"
            )
        if not _same_place(image, mask):
            raise DataError(f"{entry.name}: lies elsewhere in space than its image {stack.name}")
    smeared = facts[0].format == "raster" and is_jpeg(entry)
    return [PictureMask(entry, item.format, item.frame, smeared) for item in facts]


def is_picture(entry: Entry) -> bool:
    """Whether a file can be a mask at all."""
    try:
        return scan_drawn(entry) is not None or bool(formats.scan(entry, ""))
    except NoPicture:
        return False
    except DataError:
        return True


def _fits(entry: Entry, stack: Stack) -> bool:
    try:
        return bool(matched(entry, stack))
    except DataError:
        return False


def _scan(entry: Entry) -> list[SliceFacts]:
    stacks, _ = build_stacks(formats.scan(entry, ""))
    if len(stacks) != 1:
        raise DataError(f"{entry.name}: a mask must be one stack, this file holds {len(stacks)}")
    return stacks[0].slices


def _same_place(image: SliceFacts, mask: SliceFacts) -> bool:
    """Whether both slices lie within a pixel of each other, or one of them does not say where it is."""
    if image.position is None or mask.position is None or image.spacing is None:
        return True
    return all(
        np.allclose(a or (), b or (), atol=tolerance)
        for a, b, tolerance in (
            (image.position, mask.position, max(image.spacing)),
            (image.across, mask.across, 0.01),
            (image.down, mask.down, 0.01),
        )
    )


def _names(stack: Stack) -> list[str]:
    """What a mask of a stack may be called after, the closest name first."""
    first = stack.first.entry
    names = [stem_of(first.member or first.path)]
    if len(stack.slices) > 1 or first.member:
        folders = reversed(first.within.split("/")[:-1])
        names += [stem_of(first.path), *(stem_of(name) if name.endswith(".zip") else name for name in folders)]
    return list(dict.fromkeys(filter(None, names)))


def _nearest(found: Sequence[Entry], image: Entry) -> list[Entry]:
    """Of several files those in a folder that is called like the image's, if there are some."""
    folder = PurePosixPath(image.within).parts[1:-1]
    near = [entry for entry in found if PurePosixPath(entry.within).parts[1:-1] == folder]
    return near or list(found)


def _beginnings(stem: str) -> list[str]:
    """`a_b-mask` -> `a_b`, `a`: what an image's stem may be."""
    return [stem[: match.start()] for match in re.finditer(r"[-_. ]", stem) if match.start()]


def masks_of_rows(rows: Mapping[int, Entry], stack: Stack) -> SliceMasks | None:
    """The masks that a table names for slices, or for all of a stack, by the index of the slice; None without any."""
    files = set(rows.values())
    if len(files) == 1 and len(rows) == len(stack.slices):
        return matched(next(iter(files)), stack)
    masks: SliceMasks = [None] * len(stack.slices)
    for index, entry in rows.items():
        alone = Stack(stack.key, [stack.slices[index]], stack.spacing, stack.measured, [0.0])
        masks[index] = matched(entry, alone)[0]
    return masks if rows else None
