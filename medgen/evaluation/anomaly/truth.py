"""Which slices are normal, which are ill and where, and which of them may fit a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgen.artifacts.classes import normal_class
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.anomaly.declaration import AnomalyEvaluationOptions

Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]

_CHUNK = 64

RENAME = "name the normal one with --set anomaly.normal=NAME"
"""What helps where no class has the name of the normal one."""


@dataclass(frozen=True)
class Truth:
    """What is known of each slice (N,) of a set: case, split, kind, and whether its lesions are outlined."""

    stored: StoredSet
    cases: Rows
    splits: npt.NDArray[np.str_]
    kinds: npt.NDArray[np.str_]
    outlined: Bools
    normal: str

    @property
    def ill(self) -> Bools:
        """Slices that are not normal."""
        return np.asarray(self.kinds != self.normal)

    def names(self, rows: Rows) -> list[str]:
        """Case ids of slices."""
        return [self.stored.cases[case].id for case in self.cases[rows]]

    def places(self, rows: Rows) -> list[tuple[str, int]]:
        """Cases of slices, and their numbers in these."""
        found = zip(self.cases[rows], rows.tolist(), strict=True)
        return [(self.stored.cases[case].id, row - self.stored.cases[case].start) for case, row in found]


def truth_of(stored: StoredSet, options: AnomalyEvaluationOptions) -> Truth:
    """Read labels and masks. DataError if there are neither, or if they contradict each other."""
    counts = [row.count for row in stored.cases]
    cases = np.repeat(np.arange(len(counts)), counts)
    splits = np.repeat(np.array([row.split for row in stored.cases]), counts)
    marked = _marked(stored) if stored.has("mask") else None
    if stored.has("label"):
        kinds = _kinds(stored, options.normal)
    elif marked is not None:
        kinds = np.where(marked, "ill", options.normal)
    else:
        raise DataError("the set has neither labels nor masks to compare its maps with; preprocess with --labels")
    ill = kinds != options.normal
    if marked is not None and (wrong := np.flatnonzero(marked & ~ill)).size:
        raise DataError(
            f"case {stored.cases[cases[wrong[0]]].id} is labelled '{options.normal}', yet its mask marks pixels"
        )
    outlined = ~ill if marked is None else ~ill | marked
    return Truth(stored, cases, splits, kinds, outlined, options.normal)


def _kinds(stored: StoredSet, normal: str) -> npt.NDArray[np.str_]:
    """The label of each slice by name; classes without names are called by their number."""
    labels = stored.column("label")
    normal_class(stored.header, normal, RENAME)
    names = stored.header.label_names or tuple(str(number) for number in range(int(labels.max(initial=0)) + 1))
    return np.array(names)[labels]


def _marked(stored: StoredSet) -> Bools:
    """Which slices (N,) have any pixel of their mask set."""
    marked = np.zeros(stored.slices, bool)
    for start in range(0, stored.slices, _CHUNK):
        rows = range(start, min(start + _CHUNK, stored.slices))
        marked[rows.start : rows.stop] = stored.read("mask", rows).any(axis=(1, 2, 3))
    return marked


@dataclass(frozen=True)
class Roles:
    """Slices that a threshold is fitted on, held-out and normal, and slices that are tested."""

    fit: Truth
    fit_rows: Rows
    test: Truth
    test_rows: Rows


def roles_of(
    stored: StoredSet, whole: StoredSet, held_out: StoredSet | None, options: AnomalyEvaluationOptions
) -> Roles:
    """Fit on the normal slices of `held_out`, or of the validation split of `whole`; test on the test split.

    `stored` is `whole` or a split of it: that chooses what is tested, not what is fitted on. A set without a test split
    is tested on all but its training split and what was fitted on. DataError if nothing is left to test.
    """
    test = truth_of(stored, options)
    source = whole if held_out is None else held_out
    fit = test if source is stored else truth_of(source, options)
    fitting = ~fit.ill & (fit.splits == options.fit_split if held_out is None else fit.splits != "train")
    tested = test.splits == "test"
    if not tested.any():
        tested = test.splits != "train"
    if held_out is None:
        tested &= test.ill | (test.splits != options.fit_split)
    else:
        used = {row.id for row in held_out.cases}
        tested &= np.array([name not in used for name in test.names(np.arange(len(test.cases)))])
    if not tested.any():
        raise DataError("no slice is left to test: all maps are of training images, or of images to fit on")
    return Roles(fit, np.flatnonzero(fitting), test, np.flatnonzero(tested))
