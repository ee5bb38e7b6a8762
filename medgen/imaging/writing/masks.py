"""Masks beside exported images: which value means which class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.label_maps import mask_names
from medgen.artifacts.schema import Case, SetHeader
from medgen.errors import DataError

CLASSES = "classes.json"
FULL = 255
"""The value of the only class beside the background in a PNG, so that people see it."""


def write_classes(folder: Path, header: SetHeader, *, shown: bool) -> None:
    """Write names and values of the classes, as `preprocess --masks` finds them; `shown`: as PNG files hold them."""
    names = mask_names(header)
    values = [FULL * value if shown and len(names) == 2 else value for value in range(len(names))]
    text = json.dumps(dict(zip(names, values, strict=True)), indent=2, ensure_ascii=False)
    (folder / CLASSES).write_text(text + "\n", encoding="utf-8")


def shown_mask(mask: npt.NDArray[Any], header: SetHeader) -> npt.NDArray[np.uint8]:
    """A plane of classes as a PNG holds it: 0 and 255 of two classes, else their numbers."""
    return (mask.astype(np.uint8) * (FULL if len(mask_names(header)) == 2 else 1)).astype(np.uint8)


def label_map_of(case: Case, format_: str) -> npt.NDArray[np.uint8]:
    """(D, H, W) classes. DataError for a case without a mask, or with several."""
    if "mask" not in case.arrays:
        raise DataError(f"case {case.id}: has no mask, and {format_} needs one for each image")
    mask = case["mask"]
    if mask.shape[1] != 1:
        raise DataError(f"case {case.id}: has {mask.shape[1]} masks; {format_} holds one with classes")
    labels: npt.NDArray[np.uint8] = mask[:, 0].astype(np.uint8, copy=False)
    return labels
