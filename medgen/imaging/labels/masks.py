"""Find the mask of each slice: by a pattern with {stem}, or by name in a folder or ZIP."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from medgen.errors import DataError, InputMissingError
from medgen.imaging.labels.names import stem_of
from medgen.imaging.reading import formats
from medgen.imaging.reading.archive import Entry, enumerate_sources
from medgen.imaging.reading.series import Stack, build_stacks
from medgen.imaging.reading.slices import MaskSource, SliceFacts

# Folders of masks beside folders of images, in lower case, and what the names of masks beside images end in.
_FOLDERS = {"mask", "masks", "segmentation", "segmentations", "labelstr", "labelsts"}
_ENDING = re.compile(r"(.+)[-_. ](?:mask|seg|segmentation)", re.IGNORECASE)


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


class Masks:
    """All mask files below a place, found by the names of the images they belong to.

    A mask belongs to the image whose stem it has, or begins with (`4.jpg`, `4-mask.png`), or whose stem differs in the
    last word only (`a_frame.jpg`, `a_mask.jpg`); with a pattern such as `masks/{stem}_seg.png` exactly that file.
    """

    def __init__(self, place: str) -> None:
        self._pattern = place if "{stem}" in place else ""
        self._by_stem: dict[str, list[Entry]] = defaultdict(list)
        self._by_beginning: dict[str, list[Entry]] = defaultdict(list)
        if not self._pattern:
            if not Path(place).exists():
                raise InputMissingError(f"{place}: no such folder of masks")
            for entry in enumerate_sources([place]).entries:
                stem = stem_of(entry.member or entry.path)
                self._by_stem[stem].append(entry)
                for beginning in _beginnings(stem):
                    self._by_beginning[beginning].append(entry)

    def of_stack(self, stack: Stack) -> list[MaskSource | None]:
        """The mask of each slice. DataError if there is none for the stack, several, or one of another depth."""
        first = stack.first.entry
        names = [stem_of(first.member or first.path)]
        if len(stack.slices) > 1 or first.member:
            names += [stem_of(first.path), *reversed(first.within.split("/")[:-1])]
        for name in names:
            entry = self._find(stem_of(name) if name.endswith(".zip") else name)
            if entry is not None:
                return self._match(stack, entry)
        raise DataError(f"{stack.name}: no mask found for it (looked for '{names[0]}')")

    def _find(self, stem: str) -> Entry | None:
        if self._pattern:
            path = Path(self._pattern.replace("{stem}", stem))
            return Entry(str(path), "", path.stat().st_size, 0, path.name) if path.is_file() else None
        for index, name in ((self._by_stem, stem), (self._by_beginning, stem), (self._by_beginning, _trunk(stem))):
            found = index.get(name, []) if name else []
            if len(found) > 1:
                raise DataError(
                    f"'{stem}' has {len(found)} masks, such as {found[0].name} and {found[1].name}; "
                    "give a pattern with {stem}"
                )
            if found:
                return found[0]
        return None

    def _match(self, stack: Stack, entry: Entry) -> list[MaskSource | None]:
        """Slice by slice, where both have positions, else one for one."""
        facts = self._scan(entry)
        depth = len(stack.slices)
        if len(facts) != depth:
            raise DataError(f"{entry.name}: has {len(facts)} slices, its image {stack.name} has {depth}")
        for image, mask in zip(stack.slices, facts, strict=True):
            if not _same_place(image, mask):
                raise DataError(f"{entry.name}: lies elsewhere in space than its image {stack.name}")
        return [MaskSource(entry, item.format, item.frame) for item in facts]

    def _scan(self, entry: Entry) -> list[SliceFacts]:
        facts = formats.scan(entry, "")
        stacks, _ = build_stacks(facts)
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


def _beginnings(stem: str) -> list[str]:
    """`a_b-mask` -> `a_b`, `a`: what an image's stem may be."""
    return [stem[: match.start()] for match in re.finditer(r"[-_. ]", stem) if match.start()]


def _trunk(stem: str) -> str:
    """The stem without a last word made of letters only; "" if there is none."""
    match = re.fullmatch(r"(.+)[-_. ][A-Za-z]+", stem)
    return match[1] if match else ""
