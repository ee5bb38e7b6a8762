"""Groups of slices: of the same modality, label or split, or with similar values of a vector field."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from medgen.artifacts.classes import class_called
from medgen.artifacts.stored import StoredSet
from medgen.errors import UsageError
from medgen.models.text.prompts import distinct, spelled

MOST_VALUES = 6
"""Different values of a vector field up to which each is a group; of more, thirds of the real images are."""

Rows = npt.NDArray[np.int64]


def groups(stored: StoredSet, real: StoredSet, field: str) -> dict[str, tuple[Rows, Rows]]:
    """The slices of the set and those of the real images in each group, by its name; UsageError if one lacks the field.

    Groups found on one side only have no slices on the other.
    """
    ours, theirs = (_values(one, field, what) for one, what in ((stored, "the set"), (real, "the reference")))
    if field == "label":
        named = {bool(one.header.label_names) for one in (stored, real)}
        if len(named) > 1:
            raise UsageError(
                "--by label: in one of the sets classes have names, in the other only numbers, which may mean others; "
                "preprocess both with names in the column 'label'"
            )
    if field == "modality":
        known = distinct(ours.tolist(), distinct(theirs.tolist()))
        ours, theirs = (np.array(spelled(one.tolist(), known)) for one in (ours, theirs))
    name = str if ours.dtype.kind in "US" else _numbers(ours, theirs)
    mine, others = np.array([name(value) for value in ours]), np.array([name(value) for value in theirs])
    order = dict.fromkeys(name(value) for value in np.unique(np.concatenate([ours, theirs])))
    return {group: (np.flatnonzero(mine == group), np.flatnonzero(others == group)) for group in order}


def _values(stored: StoredSet, field: str, what: str) -> npt.NDArray[np.generic]:
    """The field's value for each slice, (N,): texts or numbers."""
    if field == "split":
        return np.repeat([row.split for row in stored.cases], [row.count for row in stored.cases])
    if field == "modality" and stored.has("modality"):
        return np.array([text or "none" for text in stored.texts("modality")])
    if field == "label" and stored.has("label"):
        labels = np.asarray(stored.column("label"))
        names = stored.header.label_names  # a set numbers the classes that it has
        return np.array([class_called(stored.header, int(label)) for label in labels]) if names else labels
    fields = stored.header.vector_fields
    if field in fields:
        return np.asarray(stored.column("vector")[:, fields.index(field)].astype(np.float64))
    known = ["split", *(name for name in ("modality", "label") if stored.has(name)), *fields]
    raise UsageError(f"--by {field}: {what} does not have it; it has {', '.join(known)}")


def _numbers(ours: npt.NDArray[np.generic], theirs: npt.NDArray[np.generic]) -> Callable[[float], str]:
    """From a number to the name of its group."""
    if len(np.unique(np.concatenate([ours, theirs]))) <= MOST_VALUES:
        return lambda value: f"{value:g}"
    edges = np.unique(np.quantile(theirs.astype(np.float64), [1 / 3, 2 / 3]))
    names = [f"up to {edges[0]:.3g}", *(f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges))]
    names.append(f"above {edges[-1]:.3g}")
    return lambda value: names[int(np.searchsorted(edges, value))]
