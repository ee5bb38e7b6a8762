"""One rater's session: what is shown, what was rated, and undo. It knows nothing of server or page."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from medgen.artifacts.schema import TEXT_NAMES, Array
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError, UsageError
from medgen.feedback.queue import Item, disguised, make_queue
from medgen.feedback.rate_options import RateOptions
from medgen.imaging.cases.options import WINDOWS
from medgen.imaging.labels.ratings import REAL, Key, Rating, RatingsFile, set_name

PAGE_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
"""Of pixels, that rate.js knows."""


@dataclass(frozen=True)
class RatedSet:
    """A set to be rated, or one that real images are mixed in from."""

    stored: StoredSet
    name: str
    """What it is called in messages."""

    def __post_init__(self) -> None:
        if self.stored.header.kind != "image":
            raise DataError(f"{self.name}: is of kind '{self.stored.header.kind}'; only images can be rated")
        if not self.stored.cases:
            raise DataError(f"{self.name}: holds no case")

    @property
    def key(self) -> str:
        """The set's name in ratings."""
        return set_name(self.stored.tail.digest)

    @property
    def parts(self) -> dict[str, Any]:
        """What is known of the set's requests: their parts, and what the parts' values mean."""
        header, stored = self.stored.header, self.stored
        known = {name: True for name in TEXT_NAMES if stored.has(name)}
        meant = {"vector": header.vector_fields, "mask": header.mask_names}
        return known | {name: meaning for name, meaning in meant.items() if stored.has(name)}

    @property
    def depths(self) -> list[int]:
        """Slices of each case."""
        return [row.count for row in self.stored.cases]

    def stretch(self, index: int) -> float:
        """Height of a case's pixels by their width."""
        _, height, width = self.stored.cases[index].spacing
        return height / width

    def facts(self, index: int, slices: range | None, parts: Collection[str]) -> dict[str, Any]:
        """How to draw some slices of a case, and these parts of its request; nothing that reveals who or what it is."""
        header, row = self.stored.header, self.stored.cases[index]
        shape, dtype = self.stored.arrays()["image"]  # (C, H, W)
        intensity = header.intensity
        shown = range(row.count) if slices is None else slices
        return {
            "slices": len(shown),
            "shape": shape,
            "type": _sent(dtype).name,
            "scale": intensity.scale if intensity else 1.0,
            "offset": intensity.offset if intensity else 0.0,
            "window": intensity.window if intensity else self._range(index),
            "unit": intensity.unit if intensity else "",
            "stretch": self.stretch(index),
            "masks": list(header.mask_names) if "mask" in parts else None,
            "condition": self.condition(index, shown[len(shown) // 2], parts),
        }

    def condition(self, index: int, number: int, parts: Collection[str]) -> list[tuple[str, str]]:
        """These parts of a slice's requested or known condition: readable names and values.

        The page opens with the middle slice of those shown, and so with what that one should show.
        """
        case = self.stored.view(index)
        told = [(name, *getattr(case, name)[number : number + 1]) for name in TEXT_NAMES if name in parts]
        if "vector" in parts:
            values = self.stored.read("vector", [self.stored.cases[index].start + number])[0].tolist()
            fields = self.stored.header.vector_fields
            told += [(name, f"{value:.2f}") for name, value in zip(fields, values, strict=True)]
        return [(name, value[0]) for name, *value in told if value and value[0]]

    def pixels(self, index: int, number: int) -> Array:
        """The values of one slice of a case, (C, H, W), in a type that the page can read."""
        row = self.stored.cases[index]
        if not 0 <= number < row.count:
            raise UsageError(f"no slice {number}")
        values: Array = self.stored.read("image", [row.start + number])[0]
        return values.astype(_sent(values.dtype), copy=False)

    def mask(self, index: int, number: int) -> Array:
        """The label map of one slice, (H, W) uint8."""
        row = self.stored.cases[index]
        if not self.stored.has("mask") or not 0 <= number < row.count:
            raise UsageError(f"no mask of slice {number}")
        channels = self.stored.read("mask", [row.start + number])[0]
        values: Array = channels.max(axis=0)
        return values

    def _range(self, index: int) -> tuple[float, float]:
        values = self.pixels(index, self.stored.cases[index].count // 2)
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        return low, high if high > low else low + 1.0


def _sent(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which values are sent to the page: their own, if it knows that."""
    return dtype if dtype.name in PAGE_TYPES else np.dtype(np.float32)


class Session:
    """The queue of one rater, and the ratings file that it fills. Safe to use from several threads."""

    def __init__(self, rated: StoredSet, real: StoredSet | None, file: RatingsFile, options: RateOptions) -> None:
        self._sets = [RatedSet(rated, "the set"), *([] if real is None else [RatedSet(real, "--real")])]
        self._check_alike()
        self.options = options
        # Whether an image is real is asked first: what it was asked to show, which might tell, is shown afterwards.
        self.aspects = (*([] if real is None else [REAL]), *options.aspects)
        self.items = self._queue()
        if not self.items:
            raise DataError("the set holds one case; --pairs needs two")
        self._file, self._lock = file, threading.Lock()
        names = {one.key for one in self._sets}
        # This rater's items, in the order in which they were rated, for undo.
        self._mine = {
            key: value
            for key, value in file.ratings.values.items()
            if key[0] in names and key[1] == options.rater and key[4] in self.aspects
        }
        self._positions = {self._keys(number)[0][:4]: number for number in range(len(self.items))}
        self._open = {number for number in range(len(self.items)) if not self._done(number)}

    def start(self) -> dict[str, Any]:
        """What the page needs before the first image, as JSON values."""
        return {
            "rater": self.options.rater,
            "aspects": self.aspects,
            "real": REAL,
            "pairs": self.options.pairs,
            "windows": WINDOWS,
            "total": len(self.items),
            **self.progress(),
        }

    def progress(self) -> dict[str, Any]:
        """How many items are done, and the first that is not (the number of items if all are)."""
        return {"done": len(self.items) - len(self._open), "position": min(self._open, default=len(self.items))}

    def item(self, position: int) -> dict[str, Any]:
        """What is shown at a position in the queue."""
        item, given = self._at(position), self.given(position)
        parts = self._told if REAL not in self.aspects or REAL in given else ()
        sides = [item.case] if item.other is None else [item.case, item.other]
        return {
            "position": position,
            "sides": [self._set(item).facts(index, item.slices, parts) for index in sides],
            "given": given,
        }

    def pixels(self, position: int, side: int, number: int, *, mask: bool = False) -> Array:
        """A slice of the item shown at `position`, (C, H, W), or its label map (H, W)."""
        item = self._at(position)
        index = item.case if side == 0 else item.other
        if index is None:
            raise UsageError(f"item {position} has one side")
        source = self._set(item)
        if item.slices is not None:
            if not 0 <= number < len(item.slices):
                raise UsageError(f"no slice {number}")
            number = item.slices[number]
        return source.mask(index, number) if mask else source.pixels(index, number)

    def rate(self, position: int, aspect: str, value: float) -> dict[str, Any]:
        """Save a rating, which is on disk when this returns. `value` of a pair: 1 = the left one is better."""
        if aspect not in self.aspects:
            raise UsageError(f"no aspect '{aspect}'")
        rating = self._rating(position, aspect, value)
        if rating.fault():
            raise UsageError(rating.fault())
        with self._lock:
            self._keep(rating)
            if self._done(position):
                self._open.discard(position)
            return self.progress()

    def undo(self) -> dict[str, Any]:
        """Withdraw all ratings of the item rated last; returns that item's position, and whether there is one."""
        with self._lock:
            last = next((key[:4] for key in reversed(self._mine) if key[:4] in self._positions), None)
            if last is None:
                return {**self.progress(), "undone": False}
            position = self._positions[last]
            for aspect in self.given(position):
                self._keep(self._rating(position, aspect, None))
            self._open.add(position)
            return {**self.progress(), "position": position, "undone": True}

    def given(self, position: int) -> dict[str, float]:
        """The rater's values for an item, by aspect; of a pair, for the left one."""
        item = self._at(position)
        turned = self._turned(item)
        found = {aspect: self._mine.get(key) for aspect, key in zip(self.aspects, self._keys(position), strict=True)}
        return {aspect: 1 - value if turned else value for aspect, value in found.items() if value is not None}

    def _keep(self, rating: Rating) -> None:
        self._file.add(replace(rating, when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
        rating = rating.ordered()
        self._mine.pop(rating.key, None)
        if rating.value is not None:
            self._mine[rating.key] = rating.value

    def _done(self, position: int) -> bool:
        return len(self.given(position)) == len(self.aspects)

    def _keys(self, position: int) -> list[Key]:
        return [self._rating(position, aspect, None).ordered().key for aspect in self.aspects]

    def _rating(self, position: int, aspect: str, value: float | None) -> Rating:
        item = self._at(position)
        source = self._set(item)
        names = [source.stored.cases[index].id for index in (item.case, item.other) if index is not None]
        return Rating(source.key, self.options.rater, names[0], "".join(names[1:]), aspect, value)

    def _turned(self, item: Item) -> bool:
        cases = self._set(item).stored.cases
        return item.other is not None and cases[item.case].id > cases[item.other].id

    def _queue(self) -> list[Item]:
        """The items; a real case is among them only if nothing but its image tells it from those to rate."""
        ours, *others = self._sets
        if not others:
            return make_queue(len(ours.stored.cases), 0, self.options)
        real, least = others[0], min(ours.depths)
        looks = {round(ours.stretch(index), 2) for index in range(len(ours.depths))}
        deep = (index for index, depth in enumerate(real.depths) if depth >= least)
        alike = [index for index in deep if round(real.stretch(index), 2) in looks]
        if not alike:
            raise DataError(
                "--real: each of its cases has fewer slices or other pixels than those to rate; preprocess both "
                "the same way, or anyone can tell which is real"
            )
        items = make_queue(len(ours.depths), len(alike), self.options)
        items = [replace(item, case=alike[item.case]) if item.real else item for item in items]
        return disguised(items, ours.depths, real.depths, self.options)

    @property
    def _told(self) -> tuple[str, ...]:
        """The parts of requests that are shown: those that all of the sets have."""
        ours, *others = (one.parts for one in self._sets)
        return tuple(name for name, meaning in ours.items() if all(one.get(name) == meaning for one in others))

    def _set(self, item: Item) -> RatedSet:
        return self._sets[1 if item.real else 0]

    def _at(self, position: int) -> Item:
        if not 0 <= position < len(self.items):
            raise UsageError(f"no item {position}")
        return self.items[position]

    def _check_alike(self) -> None:
        """DataError unless --real holds real images alone, which nobody could tell by their form from those to rate."""
        if len(self._sets) < 2:
            return
        ours, theirs = (one.stored for one in self._sets)
        if self._sets[0].key == self._sets[1].key:
            raise DataError("--real: holds the same images as the set to rate; give a set of real ones")
        if made := sum(bool(row.synthetic) for row in theirs.cases):
            raise DataError(f"--real: {made} of its {len(theirs)} cases are synthetic; give a set without them")
        if ours.arrays()["image"][0] != theirs.arrays()["image"][0]:
            raise DataError(
                f"--real: its images are {theirs.arrays()['image'][0]}, those to rate {ours.arrays()['image'][0]}; "
                "preprocess both to one size, or anyone can tell which is real"
            )
        if ours.header.intensity != theirs.header.intensity:
            raise DataError(
                "--real: its window or scale differs; preprocess both the same way, or anyone can tell which is real"
            )
