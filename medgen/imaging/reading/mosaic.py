"""Siemens mosaics: the slices of a volume as the tiles of one square picture, row by row."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medgen.errors import DataError
from medgen.imaging.reading.slices import SliceFacts

_ALIGNED = 0.999  # cosine between the normal that Siemens notes and that of the picture


def is_mosaic(dataset: Dataset) -> bool:
    """Whether the picture is one, by its type."""
    return "MOSAIC" in (dataset.get("ImageType") or ())


def unfolded(picture: SliceFacts, dataset: Dataset) -> list[SliceFacts]:
    """The slices of a mosaic, each with its own position, from the facts of its picture.

    The header's position is not that of the first slice, but of a picture as wide as the mosaic around the same centre.
    Only a private header holds the number of slices and the direction in which they follow each other. Source:
    nibabel's documentation, "DICOM format peculiarities: Siemens mosaic". DataError if any of this is missing.
    """
    slices, ahead = _private_facts(dataset)
    side = _side(slices)
    rows, columns = picture.rows // side, picture.columns // side
    across, down, spacing = picture.across, picture.down, picture.spacing
    step = picture.step or picture.thickness
    if not (slices and picture.position and across and down and spacing and step):
        raise _untold(picture)
    normal = np.cross(across, down)
    cosine = float(ahead @ normal)
    if abs(cosine) < _ALIGNED or (rows * side, columns * side) != (picture.rows, picture.columns):
        raise _untold(picture)
    corner = np.array(picture.position)
    corner += np.array(across) * spacing[1] * (picture.columns - columns) / 2
    corner += np.array(down) * spacing[0] * (picture.rows - rows) / 2
    facts = []
    for index in range(slices):
        x, y, z = corner + normal * math.copysign(step, cosine) * index
        place = float(x), float(y), float(z)
        facts.append(replace(picture, frame=index, rows=rows, columns=columns, position=place, step=step, plain=None))
    return facts


def tiles(picture: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[Any]:
    """The picture (1, side * H, side * W, C) of a mosaic -> its slices (F, H, W, C)."""
    slices, _ = _private_facts(dataset)
    side = _side(slices)
    rows, columns, channels = picture.shape[1] // side, picture.shape[2] // side, picture.shape[3]
    grid = picture.reshape(side, rows, side, columns, channels).swapaxes(1, 2)
    return grid.reshape(side * side, rows, columns, channels)[:slices]


def _side(slices: int) -> int:
    """Tiles along a side; the last ones of a mosaic may be empty."""
    return math.isqrt(max(slices - 1, 0)) + 1


def _private_facts(dataset: Dataset) -> tuple[int, npt.NDArray[np.float64]]:
    """From Siemens' private header: how many slices there are, and the unit vector from one to the next; else zeros."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its reader experimental
        from nibabel.nicom import csareader
    header: Any = csareader.get_csa_header(dataset, "image")  # type: ignore[no-untyped-call]
    told = header["tags"] if header else {}
    count, normal = (told.get(name, {}).get("items") or () for name in ("NumberOfImagesInMosaic", "SliceNormalVector"))
    return (int(count[0]), np.array(normal, np.float64)) if count and len(normal) == 3 else (0, np.zeros(3))


def _untold(picture: SliceFacts) -> DataError:
    return DataError(
        f"{picture.entry.name}: a Siemens mosaic whose slices cannot be told apart, as its private header or its "
        "geometry is missing; take the file as the scanner wrote it, or convert it to NIfTI"
    )
