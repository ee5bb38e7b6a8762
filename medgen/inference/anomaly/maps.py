"""Where an image differs from its normal version, by how much, and by how much more than normal images do."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.artifacts.classes import normal_class
from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import MAP_CHANNELS, Case, Intensity, SetHeader
from medgen.config import plain
from medgen.errors import DataError, UsageError
from medgen.inference.anomaly.calibration import Calibration, Maps, Place
from medgen.inference.anomaly.options import AnomalyOptions

NOTE = "map"
"""Key of the header's note that says how maps were made, so that only like is compared with like."""
SCORE_NOTE = "score"
"""Key of the one that says how scores were made of them."""
CALIBRATED_NOTE = "calibrated"
"""Key of the one that says how normal maps were summed up, where maps are deviations from these."""


def shared_intensity(images: SetHeader, normalized: SetHeader) -> Intensity:
    """The intensity of both sets; DataError unless both hold images of one intensity, UsageError in wrong order."""
    if _normalizations(images) > _normalizations(normalized):
        raise UsageError("only the first set was made by normalize; give the images first, then their normal versions")
    if images.kind != "image" or normalized.kind != "image":
        kinds = f"'{images.kind}' and '{normalized.kind}'"
        raise DataError(f"the sets are of kinds {kinds}; anomaly-map needs images and their normal versions")
    if images.intensity is None or normalized.intensity != images.intensity:
        raise DataError("the values of the two sets mean different things; normalize the same set")
    return images.intensity


def _normalizations(header: SetHeader) -> int:
    return sum(step.command == "normalize" for step in header.provenance.steps)


def pairs(images: Iterable[Case], normalized: Iterable[Case]) -> Iterator[tuple[Case, Case]]:
    """Each original with its normalized case, both read once and in order; `images` may hold more cases.

    DataError names the case that has no original, or one of another shape.
    """
    originals = iter(images)
    for made in normalized:
        case = next((case for case in originals if case.id == made.id), None)
        if case is None:
            raise DataError(
                f"case {made.id} of the normalized set is not in the set of images, or is there in another order; "
                "normalize the same set"
            )
        if case["image"].shape != made["image"].shape:
            raise DataError(
                f"case {made.id}: the image has shape {case['image'].shape}, its normal version {made['image'].shape}"
            )
        yield case, made
    for _ in originals:  # a stream is whole only once its end has been seen
        pass


@dataclass(frozen=True)
class MapMaker:
    """Makes maps and scores; with a calibration, in deviations from normal maps."""

    options: AnomalyOptions
    calibration: Calibration | None = None

    def __call__(self, images: Maps, versions: Maps, places: Sequence[Place] = ()) -> tuple[Maps, Maps]:
        """Images and versions (B, C, H, W) in [-1, 1] -> maps (B, 4, H, W) and scores (B,); `places` if of one case."""
        inside = foreground(images, self.options.foreground)
        maps = difference_maps(images, versions, self.options) * inside
        if self.calibration is not None:
            maps = self.calibration.deviations(maps, places) * inside
        total = zip(maps[:, -1], inside[:, 0], strict=True)
        return maps, np.array([score(values[here], self.options) for values, here in total], np.float32)


def map_cases(
    found: Iterable[tuple[Case, Case]], intensity: Intensity, options: AnomalyOptions, calibration: Calibration | None
) -> Iterator[Case]:
    """A case with maps and scores for each pair of original and normal version; images, masks and labels are kept."""
    maker = MapMaker(options, calibration)
    for case, made in found:
        x, g = intensity.normalized(case["image"]), intensity.normalized(made["image"])
        for name, values in (("image", x), ("normal version", g)):
            if not np.isfinite(values).all():
                raise DataError(f"case {case.id}: its {name} holds NaN or infinity")
        maps, scores = maker(x, g, places_of(case))
        yield replace(case, arrays={**case.arrays, "normalized": made["image"], "map": maps, "score": scores})


def difference_maps(x: Maps, g: Maps, options: AnomalyOptions) -> Maps:
    """Differences in pixels, gradients and Laplacians and their weighted sum, (D, 4, H, W).

    x and g are images and their normal versions (D, C, H, W); the maps are means over channels.
    """
    error = x - g
    if options.blur:
        error = ndimage.gaussian_filter(error, (0, 0, options.blur, options.blur))
    rows, columns = np.gradient(error, axis=(2, 3))
    parts = [np.abs(error), np.sqrt(rows**2 + columns**2), np.abs(laplacian(error))]
    maps = np.stack([part.mean(axis=1) for part in parts], axis=1)
    if options.smoothing:
        maps = ndimage.gaussian_filter(maps, (0, 0, options.smoothing, options.smoothing))
    weights = np.array([options.pixel, options.gradient, options.laplacian])[:, None, None]
    total = (weights * maps).sum(axis=1, keepdims=True)
    return np.concatenate([maps, total], axis=1).astype(np.float32)


def laplacian(x: Maps) -> Maps:
    """Five-point Laplacian of (..., H, W); the border pixels are repeated outwards."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    around = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    result: Maps = around - 4 * x
    return result


def foreground(x: Maps, share: float | None) -> npt.NDArray[np.bool_]:
    """(D, 1, H, W), where images (D, C, H, W) in [-1, 1] exceed a share of the window, holes filled; None: all."""
    if share is None:
        return np.ones((len(x), 1, *x.shape[2:]), dtype=bool)
    above = x.max(axis=1) > 2 * share - 1
    return np.stack([ndimage.binary_fill_holes(_without_specks(slice_)) for slice_ in above])[:, None]


def _without_specks(above: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The parts of (H, W) that hold a cross of five pixels."""
    kept: npt.NDArray[np.bool_] = ndimage.binary_propagation(ndimage.binary_opening(above), mask=above)
    return kept


def score(total: Maps, options: AnomalyOptions) -> float:
    """The anomaly score of a slice from the values (N,) of its total map; 0 without any."""
    if not total.size:
        return 0.0
    if options.score == "mean":
        return float(total.mean())
    count = math.ceil(options.score_share * total.size)
    highest = np.partition(total, total.size - count)[total.size - count :]
    return float(highest.mean() if options.score == "top" else highest.min())


def places_of(case: Case) -> list[Place]:
    """The places of its slices."""
    return [(case.id, number) for number in range(len(case))]


def normal_maps(
    header: SetHeader, cases: Iterable[Case], options: AnomalyOptions
) -> Iterator[tuple[list[Place], Maps]]:
    """Places and maps (D, 4, H, W) of the normal slices to calibrate by; DataError if they were made otherwise."""
    if header.kind != "map":
        raise DataError(f"the set to calibrate by is of kind '{header.kind}'; it must come from anomaly-map")
    if CALIBRATED_NOTE in header.notes:
        raise DataError("the set to calibrate by is calibrated itself; make its maps without --calibrate")
    if header.notes.get(NOTE) != options.note():
        raise DataError(
            f"the maps to calibrate by were made with {header.notes.get(NOTE)}, these with {options.note()}; "
            "make both with the same options"
        )
    split = options.calibration.split
    for case in cases:
        if split not in (None, case.split):
            continue
        places, maps = places_of(case), case["map"]
        if "label" in case.arrays:
            normal = case["label"] == normal_class(header)
            places, maps = list(compress(places, normal)), maps[normal]
        if len(maps):
            yield places, maps


def map_header(images: SetHeader, provenance: Provenance, options: AnomalyOptions, *, calibrated: bool) -> SetHeader:
    """The header of the maps of a set with header `images`."""
    scored = json.dumps({"score": options.score, "score_share": options.score_share})
    notes = {**images.notes, NOTE: options.note(), SCORE_NOTE: scored, "channels": ", ".join(MAP_CHANNELS)}
    if calibrated:
        notes[CALIBRATED_NOTE] = json.dumps(plain(options.calibration))
    return msgspec.structs.replace(images, kind="map", provenance=provenance, notes=notes)
