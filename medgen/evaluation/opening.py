"""The sets that `evaluate` opens, each with its part in the evaluation and the split to use."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgen.artifacts.schema import Intensity
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError, UsageError
from medgen.evaluation.pairing import MEASURED
from medgen.imaging.cases.options import ReadingOptions
from medgen.imaging.image_source import Images, open_alike
from medgen.reporting import Reporter

TRAINING = "training"


@dataclass(frozen=True)
class ImagesToOpen:
    """Images to open: a set, or files that become one."""

    part: str
    source: str | Path
    split: str | None = None
    """Only these cases."""


@dataclass(frozen=True)
class Opened:
    """What opening gave."""

    part: str
    name: str
    """What it is called in tables and reports."""
    stored: StoredSet
    images: Images
    """The same with all its splits, and the names of its files."""


def wanted(part: str, source: str | Path | None, split: str | None) -> list[ImagesToOpen]:
    """One, or none where no source is given; UsageError for a split without a source."""
    if source is None and split is not None:
        raise UsageError(f"--{part}-split needs --{part}")
    return [] if source is None else [ImagesToOpen(part, source, split)]


def check_real(reference: Opened) -> None:
    """DataError where a reference holds generated cases: measured against these, everything looks better than it is."""
    made = sum(bool(row.synthetic) for row in reference.stored.cases)
    if made:
        raise DataError(
            f"{reference.name}: {made} of its {len(reference.stored)} cases are synthetic, but a reference should be "
            "real; leave them out, or give --synthetic-reference to measure against them anyway"
        )


def names_of(everything: Sequence[ImagesToOpen], given: Sequence[str] | None = None) -> list[str]:
    """The name of each: its part; for the measured sets, the user's names or their numbers.

    Never after its file: folders and files are often named after patients. UsageError unless all measured are named.
    """
    count = sum(one.part == MEASURED for one in everything)
    measured = list(given or (["the set"] if count == 1 else [f"set {number}" for number in range(1, count + 1)]))
    if len(measured) != count or len(set(measured)) != count:
        raise UsageError(f"--names gives {len(set(measured))} different names to {count} sets; give each its own")
    numbered = iter(measured)
    return [next(numbered) if one.part == MEASURED else one.part for one in everything]


def open_all(
    stack: contextlib.ExitStack,
    everything: Sequence[ImagesToOpen],
    reporter: Reporter,
    reading: ReadingOptions,
    intensity: Intensity | None = None,
    names: Sequence[str] | None = None,
) -> list[Opened]:
    """Open all, in order, until `stack` ends; of a training set without a named split, its train split.

    `intensity` is a model's, for files where there is no set to match; `names` are the user's names for the measured
    sets.
    """
    sources = [one.source for one in everything]
    splits = [one.source for one in everything if one.split]
    paired = {str(one.source) for one in everything if one.part != TRAINING}
    alone = [source for source in sources if str(source) not in paired]
    images = open_alike(stack, sources, reporter, reading, with_splits=splits, unpaired=alone, intensity=intensity)
    opened = []
    for one, name, whole in zip(everything, names_of(everything, names), images, strict=True):
        split = one.split
        if split is None and one.part == TRAINING and any(row.split == "train" for row in whole.stored.cases):
            split = "train"
        part = whole.stored.only(split) if split else whole.stored
        opened.append(Opened(one.part, f"{name} ({split})" if split else name, part, whole))
    return opened
