"""Example slices of each set, chosen at random by a seed and not by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medgen.artifacts.schema import Intensity
from medgen.artifacts.stored import StoredSet
from medgen.evaluation.pictures import picture
from medgen.evaluation.section import Gallery, Panel

Named = tuple[str, StoredSet]

COUNT = 8
LONGEST_ID = 16


def examples(
    sets: Sequence[tuple[str, StoredSet]], reference: tuple[str, StoredSet] | None, seed: int
) -> list[Gallery]:
    """Galleries of random slices: samples shared by several sets side by side, otherwise each set and the reference.

    Sets without images have none.
    """
    shown = [(name, stored) for name, stored in sets if _has_images(stored)]
    galleries = []
    shared = _shared_slices([stored for _, stored in shown])
    if len(shown) > 1 and shared:
        keys = [shared[place] for place in _drawn(len(shared), seed)]
        rows = [[_picture(stored, *key, caption=f"{name}\n{label(*key)}") for name, stored in shown] for key in keys]
        galleries.append(Gallery("The same samples of each set", rows, _drawn_note(len(rows), len(shared), seed)))
    else:
        galleries += [_gallery(name, stored, seed) for name, stored in shown]
    if reference is not None and _has_images(reference[1]):
        galleries.append(_gallery(*reference, seed))
    return galleries


def label(case: str, slice_: int, depth: int) -> str:
    """A slice's name: its case, shortened, and its number where the case has several."""
    name = case if len(case) <= LONGEST_ID else case[: LONGEST_ID - 1] + "…"
    return name if depth == 1 else f"{name}, slice {slice_ + 1} of {depth}"


def _gallery(name: str, stored: StoredSet, seed: int) -> Gallery:
    keys = [(row.id, place, row.count) for row in stored.cases for place in range(row.count)]
    drawn = [keys[place] for place in _drawn(len(keys), seed)]
    rows = [[_picture(stored, *key, caption=label(*key))] for key in drawn]
    return Gallery(f"Examples of {name}", rows, _drawn_note(len(rows), len(keys), seed))


def _drawn(total: int, seed: int) -> list[int]:
    random = np.random.default_rng(seed)
    return sorted(random.permutation(total)[:COUNT].tolist())


def _drawn_note(count: int, total: int, seed: int) -> str:
    return f"{count} of {total} slices, drawn at random with seed {seed}."


def _shared_slices(sets: Sequence[StoredSet]) -> list[tuple[str, int, int]]:
    """(case, slice, depth) of the slices that all sets have, in the order of the first."""
    if not sets:
        return []
    depths = [{row.id: row.count for row in stored.cases} for stored in sets]
    return [
        (case, place, depth)
        for case, depth in depths[0].items()
        if all(other.get(case) == depth for other in depths)
        for place in range(depth)
    ]


def _picture(stored: StoredSet, case: str, slice_: int, depth: int, caption: str) -> Panel:
    start = next(row.start for row in stored.cases if row.id == case)
    image = (stored.header.intensity or Intensity()).normalized(stored.read("image", [start + slice_])[0])
    return picture(image, caption, black=-1, white=1)


def _has_images(stored: StoredSet) -> bool:
    return stored.header.kind == "image" and stored.header.intensity is not None and stored.slices > 0
