"""DICOM structure sets (RTSTRUCT): closed contours in the patient's coordinates become outlines on slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medgen.errors import DataError
from medgen.imaging.masks.segmentation import off_slice, plain_name, refers_to
from medgen.imaging.masks.sources import Contour, Layer
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.series import SliceStack

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """A region of interest: its number, name, and closed contours (N, 3), LPS mm."""

    number: int
    name: str
    contours: tuple[Points, ...]


@dataclass(frozen=True)
class Structures:
    """A structure set."""

    entry: Entry
    series: frozenset[str]
    sops: frozenset[str]  # of the slices its contours refer to
    reference: str
    regions: tuple[Region, ...]

    def belongs_to(self, stack: SliceStack) -> bool:
        """Whether the structure set refers to these slices."""
        return refers_to(stack, self.sops, self.series, self.reference)

    def layers(self, stack: SliceStack) -> list[list[Layer]]:
        """The outlines over each slice. DataError for a contour that lies on none, or askew."""
        if stack.first.position is None or not stack.measured:
            raise DataError(
                f"{self.entry.name}: its contours are in mm, but {stack.name} does not state where its pixels lie"
            )
        found: list[list[Layer]] = [[] for _ in stack.slices]
        for region in self.regions:
            polygons: dict[int, list[Points]] = {}
            for points in region.contours:
                index = self._slice(region, points, stack)
                polygons.setdefault(index, []).append(_on_slice(points, stack, index))
            for index, corners in polygons.items():
                found[index].append(Contour(region.number, region.name, self.entry, tuple(corners)))
        return found

    def _slice(self, region: Region, points: Points, stack: SliceStack) -> int:
        normal = np.array(stack.direction[:3])
        heights = points @ normal
        places = stack.places @ normal
        index = int(np.abs(places - heights.mean()).argmin())
        allowed = off_slice(stack.spacing[0])
        if np.ptp(heights) > 2 * allowed:
            raise DataError(
                f"{self.entry.name}: a contour of {region.name} is not parallel to the slices of {stack.name}"
            )
        away = float(np.abs(heights - places[index]).max())
        if away > allowed:
            beyond = heights.mean() < places.min() or heights.mean() > places.max()
            where = "beyond the outermost slice" if beyond else "between two slices"
            raise DataError(
                f"{self.entry.name}: a contour of {region.name} lies {where} of {stack.name}, {away:.3g} mm off the "
                "nearest; give the series that it was drawn on"
            )
        return index


def _on_slice(points: Points, stack: SliceStack, index: int) -> Points:
    """(N, 3) LPS mm -> (N, 2) row and column; whole numbers are pixel centres."""
    _, down, across = np.asarray(stack.direction).reshape(3, 3)
    away = points - stack.places[index]
    return np.stack([away @ down / stack.spacing[1], away @ across / stack.spacing[2]], axis=1)


def scan_structures(entry: Entry, dataset: Dataset) -> Structures:
    """What a structure set holds. DataError if it has no area at all."""
    items = dataset.get("StructureSetROISequence") or ()
    names = {int(item.ROINumber): plain_name(item.get("ROIName"), int(item.ROINumber)) for item in items}
    regions, sops = [], set()
    for item in dataset.get("ROIContourSequence") or ():
        contours = []
        for contour in item.get("ContourSequence") or ():
            sops |= {str(image.get("ReferencedSOPInstanceUID")) for image in contour.get("ContourImageSequence") or ()}
            if contour.get("ContourGeometricType") in _AREAS:
                contours.append(_points(entry, contour))
        number = int(item.ReferencedROINumber)
        if contours:
            # One that is listed twice would make a hole of itself.
            once = {points.tobytes(): points for points in contours}
            regions.append(Region(number, names.get(number, str(number)), tuple(once.values())))
    if not regions:
        raise DataError(f"{entry.name}: its structures have no closed contours")
    if len({region.name for region in regions}) < len(regions):
        raise DataError(f"{entry.name}: several of its structures have the same name; give each its own")
    frames = dataset.get("ReferencedFrameOfReferenceSequence") or ()
    series = {
        str(one.get("SeriesInstanceUID") or "")
        for frame in frames
        for study in frame.get("RTReferencedStudySequence") or ()
        for one in study.get("RTReferencedSeriesSequence") or ()
    }
    told = [str(frame.get("FrameOfReferenceUID") or "") for frame in frames]
    reference = str(dataset.get("FrameOfReferenceUID") or next(iter(told), ""))
    return Structures(entry, frozenset(series - {""}), frozenset(sops), reference, tuple(regions))


def _points(entry: Entry, contour: Dataset) -> Points:
    values = np.array([float(value) for value in contour.get("ContourData") or ()])
    if not len(values) or len(values) % 3 or not np.isfinite(values).all():
        raise DataError(f"{entry.name}: a contour is no list of points in space")
    return values.reshape(-1, 3)
