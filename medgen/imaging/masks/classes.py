"""Which mask values are which classes: as the user or a file beside the masks says, else from the masks themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medgen.artifacts.label_maps import BACKGROUND, BINARY, told
from medgen.errors import ConfigError, DataError
from medgen.imaging.labels.rows import read_rows

MOST = 256  # classes, in a byte
_FILES = ("classes.json", "classes.csv", "dataset.json")  # the last one is nnU-Net's
SLOPE = 0.6  # of a value's pixels: if more lie between a lower and a higher one, it is not a class but a smooth edge
_SHOWN = 6  # values in a message


@dataclass(frozen=True)
class Declared:
    """Classes as somebody names them; None: a class whose value the masks must tell. The background comes first."""

    values: Mapping[str, int | None]
    told_by: str

    @property
    def names(self) -> tuple[str, ...]:
        """By number."""
        return tuple(self.values)


@dataclass(frozen=True)
class MaskClasses:
    """Names of the classes 0, 1, ... of a set, and their values in pictures."""

    names: tuple[str, ...]
    values: tuple[int, ...] = ()  # a class each; empty: no mask is a picture
    level: float = 0.0  # of smeared pictures: half-way between their two values
    ordered: bool = False  # whether the user gave the order, in which of overlapping layers the last is on top

    def restored(self, picture: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """The two values that a smeared picture had before."""
        low, high = sorted(self.values)
        return np.where(picture > self.level, high, low)

    def of_values(self, values: npt.NDArray[np.int64], name: str) -> npt.NDArray[np.uint8]:
        """Numbers of classes for values (H, W). DataError for one that is not a class, of the file `name`."""
        labels = np.full(values.shape, MOST, np.int64)
        for number, value in enumerate(self.values):
            labels[values == value] = number
        if (labels == MOST).any():
            raise DataError(self.unknown(name, [int(value) for value in np.unique(values[labels == MOST])]))
        return labels.astype(np.uint8)

    def unknown(self, name: str, values: Sequence[int]) -> str:
        """What is said of a file with `values` that are no classes."""
        known = ", ".join(f"{one}={value}" for one, value in zip(self.names, self.values, strict=True))
        what = "values that are not classes" if len(values) > 1 else "a value that is not a class"
        return f"{name}: holds {what}: {_some(values)}; --mask-classes are {known}"


def declared(text: str, place: str | None) -> Declared | None:
    """What `text` names: `polyp=255,...`, names alone, or a file; without it, a file in the `place` of the masks.

    ConfigError or DataError if it names no classes.
    """
    if text and (text.lower().endswith((".json", ".csv")) or Path(text).is_file()):
        return _of_file(Path(text))
    if text:
        return _in_order(_pairs(text), "--mask-classes", sort=False)
    if place is None or "{stem}" in place:
        return None
    folder = Path(place) if Path(place).is_dir() else Path(place).parent
    for candidate in (folder, folder.parent):
        for name in _FILES:
            if (candidate / name).is_file() and (found := _of_file(candidate / name)):
                return found
    return None


def _pairs(text: str) -> list[tuple[str, int | None]]:
    pairs: list[tuple[str, int | None]] = []
    for word in text.split(","):
        name, separator, value = (part.strip() for part in word.partition("="))
        if not name or (separator and not value.isdecimal()):
            raise ConfigError(f"--mask-classes {word.strip()}: expected NAME=VALUE such as polyp=255, or NAME")
        pairs.append((name, int(value) if separator else None))
    return pairs


def _of_file(file: Path) -> Declared | None:
    """Classes of a JSON or CSV file; None for nnU-Net's dataset.json if it is not of nnU-Net."""
    if file.suffix.lower() == ".csv":
        rows = read_rows(file)
        if not {"name", "value"} <= set(rows.columns):
            raise DataError(f"{file}: names no classes; it needs the columns name and value")
        if rows.faults:
            raise DataError(rows.faults[0][1])
        return _in_order([(row["name"], _number(file, row["value"])) for _, row in rows.rows], str(file), sort=True)
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a readable JSON file ({error})") from None
    if file.name == "dataset.json":
        read = read.get("labels") if isinstance(read, dict) else None
        if not isinstance(read, dict):
            return None
    if not isinstance(read, dict) or not all(type(value) is int and value >= 0 for value in read.values()):
        raise DataError(
            f'{file}: names no classes; expected {{"background": 0, "polyp": 255}}, a whole number each; '
            "--mask-classes names them instead"
        )
    return _in_order(list(read.items()), str(file), sort=True)


def _number(file: Path, text: str) -> int:
    if not text.isdecimal():
        raise DataError(f"{file}: the value '{text}' is no whole number")
    return int(text)


def _in_order(pairs: Sequence[tuple[str, int | None]], source: str, *, sort: bool) -> Declared:
    words = [*(name for name, _ in pairs), *(str(value) for _, value in pairs if value is not None)]
    if twice := [word for word, count in Counter(words).items() if count > 1]:
        raise ConfigError(f"{source}: names {twice[0]} twice")
    if sort:
        pairs = sorted(pairs, key=lambda pair: pair[1] or 0)
    others = {name: value for name, value in pairs if name != BACKGROUND}
    background = dict(pairs).get(BACKGROUND)
    if background is None:
        if 0 in others.values():
            raise ConfigError(f"{source}: 0 is the value of a class, so say which one is the {BACKGROUND}")
        background = 0
    if not others or len(others) >= MOST:
        raise ConfigError(f"{source}: names {len(others)} classes besides {BACKGROUND}; 1 to {MOST - 1} are possible")
    if None in others.values() and len(set(others.values())) > 1:
        raise ConfigError(f"{source}: gives values to some classes only; give one to each, or to none")
    return Declared({BACKGROUND: background, **others}, source)


def decide(
    said: Declared | None, values: Mapping[int, tuple[int, int]], peak: float, layers: Sequence[str], example: str
) -> MaskClasses:
    """The classes of a set whose masks hold these `values` (`Seen.values`), smeared values up to `peak`, and layers.

    `example` is a file with the rarest value. DataError where they are no classes.
    """
    ordered = said is not None and said.told_by == "--mask-classes"
    if said is None and layers and (values or peak):
        raise DataError(
            f"some masks name what they show ({_some(layers)}), others are pictures; name the classes of both with "
            "--mask-classes background=0,NAME=VALUE"
        )
    if layers:
        names = said.names if said else (BACKGROUND, *(name for name in layers if name != BACKGROUND))
        if not (values or peak):
            return MaskClasses(names, ordered=ordered)
    found = _values_of(said, values, peak)
    if said:
        names = said.names
    else:
        refuse_smooth(values, example)
        names = BINARY if found in ((0, 1), (0, 255)) else (BACKGROUND, *map(str, found[1:]))
    if len(names) > MOST:
        raise DataError(f"{example}: the masks hold {len(names)} values, more than {MOST} classes can be")
    level = 0.0
    if peak:
        if len(names) != 2:
            raise DataError(
                f"JPEG compression has altered masks of {len(names)} classes beyond repair; save masks as PNG"
            )
        level = 127.5 if peak > 128 else peak / 2
    return MaskClasses(names, found, level, ordered)


def _values_of(said: Declared | None, values: Mapping[int, tuple[int, int]], peak: float) -> tuple[int, ...]:
    """The value of each class."""
    shown = sorted(set(values) - {0}) or ([255] if peak else [])
    if said is None:
        return (0, *(shown or [1]))
    background, *others = said.values.values()
    if background is None or None in others:
        if len(shown) != len(others):
            raise DataError(
                f"--mask-classes names {len(others)} classes, the masks hold {len(shown)} values besides 0 "
                f"({_some(shown)}); say which is which: NAME=VALUE"
            )
        return (0, *shown)
    return (background, *(value for value in others if value is not None))


def refuse_smooth(values: Mapping[int, tuple[int, int]], example: str) -> None:
    """DataError if values occur on slopes between others only, as where a picture of two values was smoothed.

    One or two may be thin classes, unless the others are black and white.
    """
    steep = sorted(value for value, (pixels, between) in values.items() if between > SLOPE * pixels)
    if len(steep) > 2 or (steep and {0, 255} <= set(values)):
        verb = "lie" if len(steep) > 1 else "lies"
        raise DataError(
            f"{example}: the masks hold {len(values)} values, of which {_some(steep)} {verb} along edges only: they "
            "are smoothed, which makes values that are not classes; threshold them first, or name all classes "
            "with --mask-classes"
        )


def told_classes(classes: MaskClasses) -> str:
    """The classes in words, with their values in pictures."""
    if not classes.values:
        return told(classes.names)
    pairs = zip(classes.names, classes.values, strict=True)
    return f"the classes are {', '.join(f'{name} ({value})' for name, value in pairs)}"


def _some(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:_SHOWN])) + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")
