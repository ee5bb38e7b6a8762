"""Two sets can be compared only in the same unit and window: otherwise the difference in scale is what is measured."""

from __future__ import annotations

from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError


def check_comparable(name: str, stored: StoredSet, other_name: str, other: StoredSet) -> list[str]:
    """DataError with the remedy where unit, window or channels differ; returns warnings."""
    ours, theirs = stored.header.intensity, other.header.intensity
    if ours is None or theirs is None or {stored.header.kind, other.header.kind} != {"image"}:
        return []  # latents and maps: each metric checks its own needs
    if ours.unit != theirs.unit:
        raise DataError(f"{name} is in {_scale(stored)}, {other_name} in {_scale(other)}; {_remedy(stored, other)}")
    if ours.window != theirs.window:
        raise DataError(
            f"{name} has the window {_window(ours.window)} {ours.unit}, {other_name} {_window(theirs.window)}; "
            "preprocess both with one --window"
        )
    mine, others = image_shape(stored), image_shape(other)
    if mine[0] != others[0]:
        raise DataError(
            f"{name} has {mine[0]} channels, {other_name} {others[0]}; preprocess both with --channels {others[0]}"
        )
    if mine != others:
        return [
            f"{name} has images of {mine[2]} x {mine[1]} pixels, {other_name} of {others[2]} x {others[1]}: features "
            "see that too; preprocess both with one --size"
        ]
    return []


def image_shape(stored: StoredSet) -> tuple[int, ...]:
    """(C, H, W) of the images."""
    return stored.arrays()["image"][0]


def _scale(stored: StoredSet) -> str:
    intensity = stored.header.intensity
    unit = intensity.unit if intensity else ""
    return {"grey value": "grey values (0 to 255)", "relative": "values relative to each case"}.get(unit, unit)


def _remedy(stored: StoredSet, other: StoredSet) -> str:
    units = {one.header.intensity.unit for one in (stored, other) if one.header.intensity}
    if units == {"HU", "grey value"}:
        return (
            "grey values cannot become HU again: give the images as DICOM or NIfTI, "
            "or write both with 'medgen export --to png' and compare those"
        )
    return "preprocess both with the same --window and --modality"


def _window(window: tuple[float, float]) -> str:
    return f"{window[0]:g} to {window[1]:g}"
