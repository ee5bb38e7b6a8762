"""Attributes of one frame of a DICOM file, wherever the file keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def frame_value(dataset: Dataset, frame: int, sequence: str, keyword: str) -> Any:
    """`keyword` of a frame: from its functional groups, else the shared ones, else the top level; None if absent."""
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups)
        if items and index < len(items) and items[index].get(sequence):
            value = items[index][sequence][0].get(keyword)
            if value is not None and value != "":
                return value
    value = dataset.get(keyword)
    return None if value == "" else value
