"""Where an image differs from its normal version, by how much, and by how much more than normal images do."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import MAP_CHANNELS, NORMAL, Array, Case, Intensity, SetHeader
from medgen.config import Options
from medgen.errors import ConfigError, DataError

Maps = npt.NDArray[np.float32]
Weight = Annotated[float, msgspec.Meta(ge=0)]
NOTE = "map"
"""Key of the header's note that says how maps were made, so that only like is compared with like."""
SCORE_NOTE = "score"
"""Key of the one that says how scores were made of them."""


class CalibrationOptions(Options, frozen=True):
    """How mean and spread of normal residuals are estimated, pixel by pixel."""

    smoothing: Weight = 2.0
    """Standard deviation, in pixels, of the Gaussian that both are smoothed with."""
    shrinkage: Weight = 10.0
    """Normal images that the mean over all pixels counts for, against those that were seen."""


class AnomalyOptions(Options, frozen=True):
    """How maps and scores are made. Images are compared in the network's range: the window is [-1, 1]."""

    pixel: Weight = 1.0
    gradient: Weight = 0.5
    laplacian: Weight = 0.3
    smoothing: Weight = 0.0
    """Standard deviation in pixels of a Gaussian over the maps; 0 = none."""
    foreground: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    """Share of the window below which a pixel is background, where maps are 0; holes are filled. None = all counts."""
    score: Literal["top", "quantile", "mean"] = "top"
    """A slice's score: the mean of the highest pixels of the total, their lowest, or the mean of all."""
    score_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01
    """Share of the (foreground) pixels that are the highest."""
    calibration: CalibrationOptions = CalibrationOptions()

    def __post_init__(self) -> None:
        if not (self.pixel or self.gradient or self.laplacian):
            raise ConfigError("pixel, gradient and laplacian are all 0, so the map would be empty; give one a weight")

    def note(self) -> str:
        """What the values of a map depend on, as JSON."""
        kept = ("pixel", "gradient", "laplacian", "smoothing", "foreground")
        return json.dumps({name: getattr(self, name) for name in kept})


def pairs(images: Iterable[Case], normalized: Iterable[Case]) -> Iterator[tuple[Case, Case]]:
    """Each normalized case beside its original, both read once and in order; `images` may hold more cases.

    DataError names the case that has no original, or one of another shape.
    """
    originals = iter(images)
    for made in normalized:
        case = next((case for case in originals if case.id == made.id), None)
        if case is None:
            raise DataError(
                f"case {made.id} of the normalized set is not in the set of images, or stands there in another order; "
                "normalize that very set"
            )
        if case["image"].shape != made["image"].shape:
            raise DataError(
                f"case {made.id}: the image has shape {case['image'].shape}, its normal version {made['image'].shape}"
            )
        yield case, made
    for _ in originals:  # a stream is whole only once its end has been seen
        pass


def map_cases(
    found: Iterable[tuple[Case, Case]], intensity: Intensity, options: AnomalyOptions, calibration: Calibration | None
) -> Iterator[Case]:
    """A case of maps and scores for each pair of original and normal version; both images, masks and labels stay."""
    for case, made in found:
        x, g = intensity.normalized(case["image"]), intensity.normalized(made["image"])
        for name, values in (("image", x), ("normal version", g)):
            if not np.isfinite(values).all():
                raise DataError(f"case {case.id}: its {name} holds NaN or infinity")
        inside = foreground(x, options.foreground)
        maps = difference_maps(x, g, options)
        if calibration is not None:
            maps = calibration.deviations(maps, case.id)
        maps *= inside
        scores = np.array([score(total[here], options) for total, here in zip(maps[:, 3], inside[:, 0], strict=True)])
        arrays = {**case.arrays, "normalized": made["image"], "map": maps, "score": scores.astype(np.float32)}
        yield replace(case, arrays=arrays)


def difference_maps(x: Maps, g: Maps, options: AnomalyOptions) -> Maps:
    """Differences in pixels, gradients and Laplacians and their weighted sum, (D, 4, H, W).

    x and g are images and their normal versions (D, C, H, W); the maps are means over channels.
    """
    error = x - g
    rows, columns = np.gradient(error, axis=(2, 3))
    parts = [np.abs(error), np.sqrt(rows**2 + columns**2), np.abs(laplacian(error))]
    maps = np.stack([part.mean(axis=1) for part in parts], axis=1)
    if options.smoothing:
        maps = ndimage.gaussian_filter(maps, (0, 0, options.smoothing, options.smoothing))
    weights = np.array([options.pixel, options.gradient, options.laplacian])[:, None, None]
    total = (weights * maps).sum(axis=1, keepdims=True)
    return np.concatenate([maps, total], axis=1).astype(np.float32)


def laplacian(x: Maps) -> Maps:
    """Five-point Laplacian of (..., H, W); beyond the border the image goes on as it ends."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    around = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    result: Maps = around - 4 * x
    return result


def foreground(x: Maps, share: float | None) -> npt.NDArray[np.bool_]:
    """(D, 1, H, W), where images (D, C, H, W) in [-1, 1] exceed a share of the window, with holes filled."""
    if share is None:
        return np.ones((len(x), 1, *x.shape[2:]), dtype=bool)
    above = x.max(axis=1) > 2 * share - 1
    return np.stack([ndimage.binary_fill_holes(_without_specks(slice_)) for slice_ in above])[:, None]


def _without_specks(above: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The parts of (H, W) that hold a cross of five pixels."""
    kept: npt.NDArray[np.bool_] = ndimage.binary_propagation(ndimage.binary_opening(above), mask=above)
    return kept


def score(total: Maps, options: AnomalyOptions) -> float:
    """How anomalous a slice is by the values (N,) of its total map; 0 without any."""
    if not total.size:
        return 0.0
    if options.score == "mean":
        return float(total.mean())
    count = math.ceil(options.score_share * total.size)
    highest = np.partition(total, total.size - count)[total.size - count :]
    return float(highest.mean() if options.score == "top" else highest.min())


@dataclass(frozen=True)
class Calibration:
    """Mean and standard deviation (4, H, W) of the maps of normal images."""

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]

    def deviations(self, maps: Maps, case: str) -> Maps:
        """Maps (D, 4, H, W) as deviations from normal; DataError names the case whose shape does not fit."""
        if maps.shape[1:] != self.mean.shape:
            told, wanted = (" x ".join(map(str, shape)) for shape in (maps.shape[2:], self.mean.shape[1:]))
            raise DataError(f"case {case}: its maps are {told}, those to calibrate by are {wanted}")
        return ((maps - self.mean) / self.std).astype(np.float32)


def calibrate(normal: Iterable[Array], options: CalibrationOptions) -> Calibration:
    """Mean and spread of normal maps (D, 4, H, W), smoothed in the plane and drawn towards the mean of all pixels.

    A pixel has as few samples as there are images; its neighbours and the plane as a whole tell the rest. DataError
    for fewer than two slices.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for maps in normal:
        values = maps.astype(np.float64)
        count += len(values)
        total = total + values.sum(axis=0)
        squares = squares + np.square(values).sum(axis=0)
    if count < 2:
        raise DataError(f"{count} normal slices cannot tell how normal maps vary; calibrate by more of them")
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0.0) * count / (count - 1)
    sigma, share = (0.0, options.smoothing, options.smoothing), count / (count + options.shrinkage)
    estimates = []
    for estimate in (mean, variance):
        smooth = ndimage.gaussian_filter(estimate, sigma) if options.smoothing else estimate
        estimates.append(share * smooth + (1 - share) * estimate.mean(axis=(1, 2), keepdims=True))
    mean, variance = estimates
    least = 1e-6 * variance.mean(axis=(1, 2), keepdims=True) + 1e-12  # where normal maps never change at all
    return Calibration(mean, np.sqrt(variance + least))


def normal_maps(header: SetHeader, cases: Iterable[Case], options: AnomalyOptions) -> Iterator[Array]:
    """The maps (D, 4, H, W) of a set's normal cases, all of them if it has no labels; DataError if they do not fit."""
    if header.kind != "map":
        raise DataError(f"the set to calibrate by is of kind '{header.kind}'; it must come from anomaly-map")
    if header.notes.get("calibrated"):
        raise DataError("the set to calibrate by is calibrated itself; make its maps without --calibrate")
    if header.notes.get(NOTE) != options.note():
        raise DataError(
            f"the maps to calibrate by were made with {header.notes.get(NOTE)}, these with {options.note()}; "
            "make both with the same options"
        )
    for case in cases:
        if "label" in case.arrays and NORMAL in header.label_names:
            yield case["map"][case["label"] == header.label_names.index(NORMAL)]
        else:
            yield case["map"]


def map_header(images: SetHeader, provenance: Provenance, options: AnomalyOptions, *, calibrated: bool) -> SetHeader:
    """The header of the maps of a set with header `images`."""
    scored = json.dumps({"score": options.score, "score_share": options.score_share})
    notes = {**images.notes, NOTE: options.note(), SCORE_NOTE: scored, "channels": ", ".join(MAP_CHANNELS)}
    if calibrated:
        notes["calibrated"] = "deviations from the mean of normal maps, in their standard deviations"
    return msgspec.structs.replace(images, kind="map", provenance=provenance, notes=notes)
