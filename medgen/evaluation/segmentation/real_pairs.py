"""Which real pairs a segmenter is trained on, and which it is tested on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgen.artifacts.label_maps import mask_names, told
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.comparability import image_shape
from medgen.evaluation.inputs import Inputs
from medgen.imaging.cases.identity import owner_of

Rows = npt.NDArray[np.int64]
HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Real:
    """Real pairs: those to train on, and held-out ones of the same kind."""

    training: StoredSet
    reference: StoredSet
    held_out: Rows
    """Slices of `reference`."""


def real_pairs(inputs: Inputs) -> Real | None:
    """The pairs to train on and to test on; None if the inputs lack either."""
    return None if inputs.reference is None else pairs_in(inputs.reference, inputs.training)


def pairs_in(reference: StoredSet, training: StoredSet | None = None) -> Real | None:
    """The pairs to train on and to test on; None if the sets lack either.

    Training uses the training images if they have masks, else the reference's train split; held out are the reference's
    val and test cases of other patients, where the ids tell these.
    """
    if not reference.has("mask") or reference.header.kind != "image":
        return None
    if training is None or not training.has("mask"):
        if all(row.split != "train" for row in reference.cases):
            return None
        training = reference.only("train")
    known = {owner_of(row.id) for row in training.cases}
    kept = [row for row in reference.cases if row.split in HELD_OUT and owner_of(row.id) not in known]
    held_out = np.array([row.start + depth for row in kept for depth in range(row.count)], dtype=np.int64)
    return Real(training, reference, held_out) if len(held_out) and training.slices else None


def check_alike(stored: StoredSet, real: Real) -> tuple[str, ...]:
    """Names of the classes; DataError unless all sets have the same classes and number of channels."""
    names = mask_names(real.reference.header)
    for what, other in (("the training set", real.training), ("the set", stored)):
        if (others := mask_names(other.header)) != names:
            raise DataError(
                f"the masks of {what} have other classes than those of the reference: {told(others)}, but in the "
                f"reference {told(names)}; preprocess both with the same class names"
            )
        if image_shape(other)[0] != image_shape(real.reference)[0]:
            raise DataError(
                f"{what} has {image_shape(other)[0]} channels, the reference {image_shape(real.reference)[0]}; "
                "preprocess both with one --channels"
            )
    return names
