"""Sources of maps and scores: the set itself, and baselines without a normalizer, mapped in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
import torch

from medgen.artifacts.classes import NORMAL, normal_class
from medgen.artifacts.schema import MAP_CHANNELS
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.anomaly.nearest_normal import Read, nearest_rows
from medgen.evaluation.anomaly.truth import RENAME, Roles, Rows, Truth
from medgen.evaluation.inputs import Images, Inputs, MapMaker
from medgen.reporting import Advance

CHUNK = 32  # slices mapped at once
TOP_SHARE = 0.01
"""Of the pixels of a component's map, whose mean is its score of an image."""

Produce = Callable[[Truth, Rows], tuple[Images, Images]]
"""From slices of a set to their maps (B, 4, H, W) and scores (B,)."""


@dataclass(frozen=True)
class MapChannel:
    """One row of the table: a channel of one source's maps."""

    name: str
    title: str
    channel: int

    def score(self, maps: Images, scores: Images) -> Images:
        """A score for each image (B,): the source's for the total, otherwise the mean of the highest pixels."""
        if MAP_CHANNELS[self.channel] == "total":
            return scores
        flat = maps[:, self.channel].reshape(len(maps), -1)
        count = ceil(TOP_SHARE * flat.shape[1])
        highest: Images = np.partition(flat, flat.shape[1] - count)[:, -count:].mean(1)
        return highest


@dataclass(frozen=True)
class MapSource:
    """A source of maps, and the detectors that read them."""

    produce: Produce
    detectors: tuple[MapChannel, ...]


def sources_of(inputs: Inputs, roles: Roles, advance: Advance) -> Iterator[MapSource]:
    """The set's maps, and the baselines that the inputs allow."""
    yield MapSource(_stored, tuple(_detectors("normalizer", "normalizer", ("total", "pixel", "gradient", "laplacian"))))
    maker = inputs.maps
    if maker is None:
        return
    if inputs.vae is not None:
        reconstruct = inputs.vae.reconstruct

        def rebuilt(truth: Truth, rows: Rows, images: Images) -> Images:
            with torch.inference_mode():
                return reconstruct(torch.from_numpy(images)).float().cpu().numpy()

        yield _baseline("vae", "VAE reconstruction", rebuilt, maker, roles)
    if inputs.training is not None:
        yield _baseline("nearest", "nearest training image", _nearest(inputs, roles, advance), maker, roles)


def _detectors(name: str, title: str, channels: tuple[str, ...]) -> Iterator[MapChannel]:
    told = {"total": "", "pixel": ", pixels alone", "gradient": ", gradients alone", "laplacian": ", Laplacians alone"}
    for channel in channels:
        own = name if channel == "total" else f"{name}_{channel}"
        yield MapChannel(own, title + told[channel], MAP_CHANNELS.index(channel))


def _stored(truth: Truth, rows: Rows) -> tuple[Images, Images]:
    maps, scores = truth.stored.read("map", rows), truth.stored.read("score", rows)
    broken = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2, 3)) | ~np.isfinite(scores))
    if len(broken):
        raise DataError(f"case {truth.names(rows[broken[:1]])[0]}: its maps hold NaN or infinity")
    return maps.astype(np.float32), scores.astype(np.float32)


Version = Callable[[Truth, Rows, Images], Images]
"""What a baseline takes for the normal version of images (B, C, H, W)."""


def _baseline(name: str, title: str, version: Version, maker: MapMaker, roles: Roles) -> MapSource:
    """Maps of the differences between images and their `version`; as deviations from normal if the set's maps are."""

    def mapped(maker: MapMaker, truth: Truth, rows: Rows) -> Iterator[tuple[list[tuple[str, int]], Images, Images]]:
        """Maps and scores case by case, with the places of slices, though all versions are made at once."""
        images, places = read_images(truth.stored)(rows), truth.places(rows)
        versions = version(truth, rows, images)
        starts = [0, *(row for row in range(1, len(rows)) if places[row][0] != places[row - 1][0]), len(rows)]
        for part in (slice(*ends) for ends in pairwise(starts)):
            yield (places[part], *maker(images[part], versions[part], places[part]))

    if maker.calibrated and len(roles.fit_rows) > 1:
        uncalibrated = maker
        maker = maker.calibrated_by(
            (places, maps)
            for rows in chunks(roles.fit_rows)
            for places, maps, _ in mapped(uncalibrated, roles.fit, rows)
        )

    def produce(truth: Truth, rows: Rows) -> tuple[Images, Images]:
        _, maps, scores = zip(*mapped(maker, truth, rows), strict=True)
        return np.concatenate(maps), np.concatenate(scores)

    return MapSource(produce, tuple(_detectors(name, title, ("total", "pixel"))))


def _nearest(inputs: Inputs, roles: Roles, advance: Advance) -> Version:
    """Replaces each image by its nearest training image."""
    training = inputs.training
    if training is None:
        raise DataError("the nearest training image needs --training")
    if training.header.intensity != inputs.stored.header.intensity:
        raise DataError("the training set has another intensity window than the maps; preprocess both with one window")
    shapes = [tuple(one.read("image", [0]).shape[1:]) for one in (training, inputs.stored)]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"the training images are {shapes[0]}, those of the maps {shapes[1]}; preprocess both the same way"
        )
    candidates, read = normal_rows(training, roles.test.normal), read_images(training)
    found: dict[tuple[int, int], int] = {}
    for truth, rows in ((roles.fit, roles.fit_rows), (roles.test, roles.test_rows)):
        nearest = nearest_rows(rows, read_images(truth.stored), candidates, read, advance)
        found.update({(id(truth), int(row)): int(other) for row, other in zip(rows, nearest, strict=True)})
    return lambda truth, rows, images: read(np.array([found[id(truth), int(row)] for row in rows]))


def normal_rows(training: StoredSet, normal: str = NORMAL) -> Rows:
    """Normal slices of the training split, or all of it where there are no labels; DataError if there are none."""
    split = np.repeat([row.split == "train" for row in training.cases], [row.count for row in training.cases])
    if training.has("label"):
        split &= training.column("label") == normal_class(training.header, normal, RENAME)
    rows = np.flatnonzero(split)
    if not len(rows):
        raise DataError(f"the training set has no '{normal}' image in its training split")
    return rows


def read_images(stored: StoredSet) -> Read:
    """Images of a set as the network sees them; DataError if it holds none."""
    intensity = stored.header.intensity
    if intensity is None:
        raise DataError("the set holds no images")
    return lambda rows: intensity.normalized(stored.read("image", rows))


def chunks(rows: Rows) -> Iterator[Rows]:
    """A few slices at a time."""
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
