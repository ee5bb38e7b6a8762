"""A measuring rule for nodules in chest CT: where the most nodule-like spot is, how large, and how certain.

A nodule is a compact bright spot in the lung field. Spots are maxima, over place and scale, of the *smaller* principal
curvature of the smoothed image (Lindeberg 1998 for the choice of scale): a ridge such as a vessel curves in one
direction only, an edge such as the heart's border in none, so that both score low.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medgen.evaluation.conditioning.spot_width import OUTSIDE_AIR, at_half_maximum

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

AIR = -500.0
"""HU below which a pixel inside the body counts as lung."""
CEILING = 0.0
"""HU above which tissue is as bright as a nodule gets: bone and contrast agent must not stand out."""
SMALLEST_PIXELS = 2.0
"""Diameter in pixels below which a spot cannot be told from noise."""
LARGEST = 0.22
"""Diameter over image width above which a spot is the heart rather than a nodule."""
LARGEST_CLOSE = 0.7
"""The same in a close-up, where nothing rounder than a nodule is whole."""
SCALE_STEP = 2**0.25
DISC_RESPONSE = np.exp(-1.0)
"""Curvature response of a disc of unit contrast at its best scale, radius / sqrt(2)."""
KEPT = 12
"""Spots kept an image."""
WORKING_WIDTH = 128
"""Wider images are averaged down to about this width: at 3 mm a pixel nodules still show, and vessels fade."""


@dataclass(frozen=True)
class Spot:
    """A candidate: x and lengths over the image width, y over its height, contrast to its surroundings in HU."""

    x: float
    y: float
    scale: float
    """Diameter of the disc that responds most at this smoothing scale: to tell spots apart, not a measurement."""
    contrast: float
    size: float
    """The longer side at half maximum."""
    medial: bool = False
    """Beyond the inner border of the lung, where aorta and vertebrae look like nodules at the mediastinum."""


def find_spots(image: Image) -> list[Spot]:
    """The spots of an image (H, W) in HU, by falling strength; none where there is no lung."""
    shrink = max(1, round(image.shape[1] / WORKING_WIDTH))
    if shrink > 1:
        height, width = (side // shrink * shrink for side in image.shape)
        image = image[:height, :width].reshape(height // shrink, shrink, width // shrink, shrink).mean(axis=(1, 3))
    near = is_close_up(image)
    hulls, field = (np.ones(image.shape, bool),) * 2 if near else lung_fields(image)
    if not hulls.any():
        return []
    height, width = image.shape
    clipped = np.clip(image, -1000.0, CEILING).astype(np.float32)
    smallest, largest = SMALLEST_PIXELS, max((LARGEST_CLOSE if near else LARGEST) * width, 2 * SMALLEST_PIXELS)
    count = int(np.ceil(np.log(largest / smallest) / np.log(SCALE_STEP))) + 1
    sigmas = smallest / np.sqrt(8.0) * SCALE_STEP ** np.arange(count)
    # A spot is weighted by its share inside the lungs: otherwise corners of the chest wall look like large nodules.
    inside = hulls.astype(np.float32)
    responses = np.stack(
        [smaller_curvature(clipped, sigma) * ndimage.gaussian_filter(inside, sigma) * hulls for sigma in sigmas]
    )  # (S, H, W)
    peaks = (responses == ndimage.maximum_filter(responses, size=3)) & (responses > 0)
    scales, rows, columns = np.nonzero(peaks)
    order = np.argsort(-responses[scales, rows, columns], kind="stable")
    spots: list[Spot] = []
    for s, r, c in zip(scales[order], rows[order], columns[order], strict=True):
        spot = Spot(
            x=float(c + 0.5) / width,
            y=float(r + 0.5) / height,
            scale=float(sigmas[s] * np.sqrt(8.0)) / width,
            contrast=float(responses[s, r, c] / DISC_RESPONSE),
            size=0.0,
            medial=not field[r, c],
        )
        if all(not _same(spot, other) for other in spots):
            found = at_half_maximum(clipped, float(r), float(c), spot.scale * width)
            x, y = (found.column + 0.5) / width, (found.row + 0.5) / height
            spots.append(replace(spot, x=x, y=y, size=found.width / width))
        if len(spots) == KEPT:
            break
    return spots


def smaller_curvature(image: Image, sigma: float) -> Image:
    """sigma^2 times the smaller of the two downward principal curvatures, 0 where the image is not a dome."""
    xx = ndimage.gaussian_filter(image, sigma, order=(0, 2), mode="nearest")
    yy = ndimage.gaussian_filter(image, sigma, order=(2, 0), mode="nearest")
    xy = ndimage.gaussian_filter(image, sigma, order=(1, 1), mode="nearest")
    larger_eigenvalue = (xx + yy) / 2 + np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    response: Image = np.maximum(-larger_eigenvalue, 0.0) * np.float32(sigma**2)
    return response


def is_close_up(image: Image) -> bool:
    """Whether an image (H, W) in HU lies inside the chest: lung crosses its border, with no air around a body."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    outside, lung = (border < OUTSIDE_AIR).mean(), (border < AIR).mean()
    return bool(lung > 0.1 and outside < 0.5 * lung and (image < AIR).mean() > 0.15)


def lung_fields(image: Image) -> tuple[Mask, Mask]:
    """Where the centre of a nodule may lie in an image (H, W) in HU: the hulls of both lungs, with the bays of their
    outer and inner walls; and the same without the inner bays, because heart, aorta and vertebrae are round too."""
    hulls, field = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
    body = _largest(image > AIR)
    if not body.any():
        return hulls, field
    body = ndimage.binary_fill_holes(body)
    air = body & (image < AIR)
    columns = np.arange(image.shape[1])
    middle = int(np.average(columns, weights=body.sum(0)))
    for outward, side in ((columns < middle, columns[::-1]), (columns >= middle, columns)):
        lung = _largest(air & outward)
        if lung.sum() < 9:
            continue
        # Column of the innermost air in each row, counted outwards.
        inner = np.where(lung, side, image.shape[1]).min(axis=1)
        hull = _hull(lung)
        hulls |= hull
        field |= hull & (side >= inner[:, None])
    return hulls, field


def _hull(mask: Mask) -> Mask:
    from skimage.morphology import convex_hull_image

    hull: Mask = convex_hull_image(mask)  # type: ignore[no-untyped-call]
    return hull


def _largest(mask: Mask) -> Mask:
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.zeros(mask.shape, bool)
    sizes = np.bincount(labels.ravel())[1:]
    largest: Mask = labels == 1 + int(sizes.argmax())
    return largest


def _same(a: Spot, b: Spot) -> bool:
    return (a.x - b.x) ** 2 + (a.y - b.y) ** 2 < (max(a.scale, b.scale) / 2) ** 2
