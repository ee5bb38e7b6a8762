"""Masks as label maps: the names of their values, how often each occurs, and a check that every value has a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from medgen.artifacts.schema import Array, Case, SetHeader
from medgen.artifacts.stacks import blocks
from medgen.errors import DataError

BACKGROUND = "background"
BINARY = (BACKGROUND, "foreground")
"""Names of 0 and 1 if a set does not name them."""
_WORD = re.compile(r"[A-Z]?[^\W\d_A-Z]+(?!\d)|[A-Z]+(?![a-z\d])")  # of "LungLeft" and "LUNG_L", not of "L1", a vertebra
_SIDES = {"left", "right", "l", "r"}


def mask_names(header: SetHeader) -> tuple[str, ...]:
    """Names of the values 0, 1, ... of the masks of a set."""
    return header.mask_names or BINARY


def sided(names: Sequence[str]) -> list[str]:
    """The classes that are named by their side, such as `left lung`: a mirrored mask shows them on the other one."""
    return [name for name in names if _SIDES & {word.lower() for word in _WORD.findall(name)}]


def check_mask(case: Case, names: Sequence[str]) -> None:
    """DataError unless the mask is a label map (D, 1, H, W) whose values all have a name in `names`."""
    mask = case.stack("mask")
    if mask.shape[1] != 1 or mask.dtype != np.uint8:
        raise DataError(f"case {case.id}: its mask is {mask.dtype} {mask.shape}, expected uint8 (D, 1, H, W)")
    largest = max((int(block.max(initial=0)) for block in blocks(mask)), default=0)
    if largest >= len(names):
        raise DataError(f"case {case.id}: its mask holds {largest}, which is not a class; {told(names)}")


def one_hot(labels: Array, names: Sequence[str]) -> Array:
    """Label maps (B, 1, H, W) -> network input, float32 (B, len(names) - 1, H, W): 1 in the channel of the class.

    All channels are 0 at background. DataError for a value without a name.
    """
    if labels.shape[1] != 1:
        raise DataError(f"masks of {labels.shape[1]} channels are no label maps; preprocess the images again")
    if (largest := int(labels.max(initial=0))) >= len(names):
        raise DataError(f"a mask holds {largest}, which is not a class; {told(names)}")
    classes = np.arange(1, len(names), dtype=labels.dtype).reshape(-1, 1, 1)
    channels: Array = (labels == classes).astype(np.float32)
    return channels


def told(names: Sequence[str]) -> str:
    """The classes with their values, in words."""
    return f"the classes are {', '.join(f'{value} {name}' for value, name in enumerate(names))}"


class MaskCounts:
    """For each class, the number of slices that show it and its share of all pixels."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._slices = np.zeros(256, np.int64)
        self._pixels = np.zeros(256, np.int64)

    def add(self, mask: Array) -> None:
        """Take in a label map (D, 1, H, W)."""
        for plane in mask:
            pixels = np.bincount(plane.reshape(-1), minlength=256)
            self._pixels += pixels
            self._slices += pixels > 0

    def facts(self) -> dict[str, Any]:
        """The counts by the name of the class; a value without a name is listed by its number."""
        known = len(self._names)
        whole = max(1, int(self._pixels.sum()))
        return {
            self._names[value] if value < known else str(value): {
                "slices": int(self._slices[value]), "pixels": float(f"{self._pixels[value] / whole:.3g}")
            }
            for value in range(256)
            if value < known or self._pixels[value]
        }  # fmt: skip
