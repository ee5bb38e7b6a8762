"""Masks that belong to a stack, slice by slice: what DICOM objects draw over it, or the frames of other files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medgen.errors import DataError
from medgen.imaging.masks.contours import Structures, scan_structures
from medgen.imaging.masks.segmentation import Segmentation, scan_segmentation
from medgen.imaging.masks.sources import Layer, LayeredMask, MaskSource, PictureMask
from medgen.imaging.reading import formats
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.faults import NoPicture, failing_as
from medgen.imaging.reading.raster import is_jpeg
from medgen.imaging.reading.series import SliceStack, build_stacks
from medgen.imaging.reading.slices import SliceFacts

SliceMasks = list[MaskSource | None]
"""Of each slice of a stack; None where there is none."""
Drawn = Segmentation | Structures


def scan_drawn(entry: Entry) -> Drawn | None:
    """The segmentation or structure set that a file holds; None for any other file."""
    import pydicom  # only where there are masks of DICOM to look for

    with failing_as(entry.name, "not a readable DICOM file"):
        if entry.head(132)[128:] != b"DICM" and entry.suffix not in (".dcm", ".dicom"):
            return None
        with entry.open() as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=["Modality"])
        modality = header.get("Modality")
        if modality not in ("SEG", "RTSTRUCT"):
            return None
        with entry.open() as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        return scan_segmentation(entry, dataset) if modality == "SEG" else scan_structures(entry, dataset)


def layered(drawn: Sequence[Drawn], stack: SliceStack) -> SliceMasks:
    """What DICOM objects draw over each slice. DataError if two draw the same class, or one does not fit the slices."""
    layers: list[list[Layer]] = [[] for _ in stack.slices]
    owners: dict[str, Entry] = {}
    for one in drawn:
        for index, found in enumerate(one.layers(stack)):
            for layer in found:
                owner = owners.setdefault(layer.name, one.entry)
                if owner != one.entry:
                    raise DataError(
                        f"{one.entry.name}: shows '{layer.name}' on {stack.name}, and so does {owner.name}; keep one"
                    )
                layers[index].append(layer)
    size = stack.first.rows, stack.first.columns
    return [LayeredMask(drawn[0].entry, tuple(found), *size) for found in layers]


def matched(entry: Entry, stack: SliceStack) -> SliceMasks:
    """The slices of a file for those of an image, by position if both have positions. DataError if they do not fit."""
    if (drawn := scan_drawn(entry)) is not None:
        return layered([drawn], stack)
    facts = _scan(entry)
    if len(facts) != len(stack.slices):
        raise DataError(f"{entry.name}: has {len(facts)} slices, its image {stack.name} has {len(stack.slices)}")
    _check_order(entry, facts, stack)
    for image, mask in zip(stack.slices, facts, strict=True):
        if (mask.rows, mask.columns) != (image.rows, image.columns):
            raise DataError(
                f"{entry.name}: has {mask.columns} x {mask.rows} pixels, its image {stack.name} has "
                f"{image.columns} x {image.rows}"
            )
        if not _same_place(image, mask):
            raise DataError(f"{entry.name}: is not where its image is {stack.name}")
    smeared = facts[0].format == "raster" and is_jpeg(entry)
    return [PictureMask(entry, item.format, item.frame, smeared) for item in facts]


def is_picture(entry: Entry) -> bool:
    """Whether a file can be a mask at all."""
    try:
        return scan_drawn(entry) is not None or bool(formats.scan(entry, ""))
    except NoPicture:
        return False
    except DataError:
        return True


def fits(entry: Entry, stack: SliceStack) -> bool:
    """Whether a file can be the mask of a stack."""
    try:
        return bool(matched(entry, stack))
    except DataError:
        return False


def matched_slices(rows: Mapping[int, Entry], stack: SliceStack) -> SliceMasks | None:
    """The masks of single slices, or one for all, by the index of the slice; None without any."""
    files = set(rows.values())
    if len(files) == 1 and len(rows) == len(stack.slices):
        return matched(next(iter(files)), stack)
    masks: SliceMasks = [None] * len(stack.slices)
    for index, entry in rows.items():
        alone = SliceStack(stack.key, [stack.slices[index]], stack.spacing, stack.measured, [0.0])
        masks[index] = matched(entry, alone)[0]
    return masks if rows else None


def _scan(entry: Entry) -> list[SliceFacts]:
    stacks, _ = build_stacks(formats.scan(entry, ""))
    if len(stacks) != 1:
        raise DataError(f"{entry.name}: a mask must be one stack, this file holds {len(stacks)}")
    return stacks[0].slices


def _check_order(entry: Entry, facts: Sequence[SliceFacts], stack: SliceStack) -> None:
    """DataError where only one of mask and image says how it lies, so that the mask may be upside down."""
    image, mask = stack.first, facts[0]
    if (image.position is None) == (mask.position is None):
        return
    if mask.position is None and len(facts) > 1:
        raise DataError(
            f"{entry.name}: does not say which of its {len(facts)} slices belongs to which of {stack.name}; save the "
            "mask as NIfTI or DICOM segmentation, or one file a slice, named like that of its image"
        )
    for one, other in ((image, mask), (mask, image)):
        if one.format == "nifti":
            from medgen.imaging.reading.nifti import is_turned

            if is_turned(one.entry):
                raise DataError(
                    f"{one.entry.name}: its header turns its rows, columns or slices, and {other.entry.name} does not "
                    "say how it lies; save both in one format"
                )


def _same_place(image: SliceFacts, mask: SliceFacts) -> bool:
    """Whether both slices have their pixels in the same places, or one of them does not say where it is."""
    if image.position is None or mask.position is None or image.spacing is None:
        return True
    return all(
        np.allclose(a or (), b or (), atol=tolerance)
        for a, b, tolerance in (
            (image.position, mask.position, max(image.spacing)),
            (image.across, mask.across, 0.01),
            (image.down, mask.down, 0.01),
            (image.spacing, mask.spacing or image.spacing, max(image.spacing) / max(image.rows, image.columns)),
        )
    )
