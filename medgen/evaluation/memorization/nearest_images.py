"""For each image of one set the nearest image of another: descriptors pick candidates, which are then aligned.

Features and spectra of all images are held in memory, a few kilobytes an image; images are read when they are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.artifacts.stored import StoredSet
from medgen.evaluation.distances import distances, on_grid
from medgen.evaluation.features.features import FeatureBank, Features, key_of
from medgen.evaluation.memorization.alignment import align, small, unlikeness
from medgen.evaluation.memorization.declaration import MemorizationOptions
from medgen.evaluation.memorization.spectrum import mirrored, spectrum
from medgen.nets.compute import one_thread
from medgen.reporting import Advance, unseen

FLIPS: dict[str, tuple[int, ...]] = {"none": (), "left-right": (-1,), "up-down": (-2,), "both": (-2, -1)}
BATCH = 64
BLOCK = 1 << 23
"""Distances that are held at once."""

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Collection:
    """The finite images of a set and their descriptors; rows as in `features`."""

    stored: StoredSet
    features: Features
    spectra: Tensor
    """(N, rows, columns)"""

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: Rows) -> Collection:
        """Some of the rows, in the order asked for."""
        return Collection(self.stored, self.features[rows], self.spectra[torch.from_numpy(rows)])

    def images(self, rows: Rows) -> Tensor:
        """(len(rows), C, H, W) in [-1, 1]."""
        intensity = self.stored.header.intensity
        if intensity is None:
            raise ValueError("a set of images says what its values mean")
        return torch.from_numpy(intensity.normalized(self.stored.read("image", self.features.slices[rows])))


@dataclass(frozen=True)
class Matches:
    """The nearest image of each of N images."""

    distance: Values
    """(N,) sqrt(1 - correlation) after alignment."""
    surroundings: Values
    """(N,) median of this distance over the other cases that were compared; NaN where there were none."""
    row: Rows
    """(N,) the nearest image."""
    flip: Rows
    """(N,) how the image has to be mirrored to align with it, as an index into FLIPS."""
    shift: Rows
    """(N, 2) pixels, at the compared size, by which the nearest image then has to be moved down and right."""
    feature_distance: Values
    """(N,) distance to the nearest image in feature space, whichever that is."""

    def relative(self, least: float) -> Values:
        """(N,) distance over surroundings (at least `least`): 0 for a copy, about 1 for one of many similar images."""
        return self.distance / np.fmax(self.surroundings, least)


def collect(stored: StoredSet, bank: FeatureBank, advance: Advance = unseen) -> Collection:
    """Describe the images of a set."""
    features = bank.of(stored, advance)

    def spectra() -> Tensor:
        undescribed = Collection(stored, features, torch.empty(len(features), 0))
        starts = range(0, len(features), BATCH)
        return torch.cat(
            [spectrum(undescribed.images(np.arange(start, min(start + BATCH, len(features))))) for start in starts]
        )

    return Collection(stored, features, bank.once(("spectra", key_of(stored)), spectra))


def nearest_images(
    queries: Collection,
    gallery: Collection,
    options: MemorizationOptions,
    advance: Advance = unseen,
    *,
    same: bool = False,
) -> Matches:
    """Compare each query with the gallery; with `same` they are one set, and images of a case are not compared."""
    size = compared_size(queries, options.side)
    reach = round(options.shift * min(size))
    found = []
    for row, rows, flips, feature_distance in _candidates(queries, gallery, options.candidates, same=same):
        image = small(queries.images(np.array([row])), size)
        ours = torch.cat([image.flip(axes) if (axes := FLIPS[name]) else image for name in FLIPS])
        read, of_theirs = np.unique(rows, return_inverse=True)
        theirs = small(gallery.images(read), size)
        with one_thread():
            distances, shifts = align(ours, theirs, torch.from_numpy(flips), torch.from_numpy(of_theirs), reach)
        best = int(distances.argmin())
        shift = tuple(shifts[best].tolist())
        distance = unlikeness(ours[flips[best]], theirs[of_theirs[best]], shift)
        cases = gallery.features.cases[rows]
        others = [distances.numpy()[cases == case].min() for case in np.unique(cases) if case != cases[best]]
        surroundings = float(np.median(others)) if others else np.nan
        found.append((distance, surroundings, rows[best], flips[best], shift, feature_distance))
        advance(1)
    columns = [np.array(column) for column in zip(*found, strict=True)]
    return Matches(*columns)


def compared_size(collection: Collection, side: int) -> tuple[int, int]:
    """Height and width to which images are reduced before alignment."""
    height, width = collection.stored.arrays()["image"][0][1:]
    share = min(1.0, side / max(height, width))
    return max(round(height * share), 1), max(round(width * share), 1)


def _candidates(
    queries: Collection, gallery: Collection, count: int, *, same: bool
) -> Iterator[tuple[int, Rows, Rows, float]]:
    """For each query the gallery rows to compare with, how to mirror the query for each, and its feature distance.

    Candidates are the nearest image of each of the `count` nearest cases, and the `count` nearest images overall: in
    features, in spectrum, and in mirrored spectrum. The images of a case are contiguous.
    """
    cases = torch.from_numpy(gallery.features.cases)
    names, starts, place = np.unique(gallery.features.cases, return_index=True, return_inverse=True)
    places, ends = torch.from_numpy(place), np.append(starts[1:], len(gallery))
    features = on_grid(queries.features.values, gallery.features.values)
    spectra = on_grid(*(part.flatten(1) for part in (queries.spectra, mirrored(queries.spectra), gallery.spectra)))
    for start in range(0, len(queries), size := max(1, min(BLOCK // len(gallery), len(queries)))):
        block = slice(start, start + size)
        searches = (
            (distances(features[0][block], features[1]), (0,)),
            (distances(spectra[0][block], spectra[2]), (0, 3)),
            (distances(spectra[1][block], spectra[2]), (1, 2)),
        )
        if same:
            mine = torch.from_numpy(queries.features.cases[block])
            for found, _ in searches:
                found[mine[:, None] == cases] = torch.inf
        nearest = [_nearest(found, places, len(names), count) for found, _ in searches]
        for index in range(len(searches[0][0])):
            pairs = set()
            for (found, flips), (near_cases, near) in zip(searches, nearest, strict=True):
                firsts = [
                    int(starts[case] + found[index, starts[case] : ends[case]].argmin())
                    for case in near_cases[index].tolist()
                ]
                for row in {*firsts, *near[index].tolist()}:
                    if found[index, row] < torch.inf:
                        pairs |= {(row, flip) for flip in flips}
            rows, flips = np.array(sorted(pairs)).T
            yield start + index, rows, flips, float(searches[0][0][index].min())


def _nearest(found: Tensor, places: Tensor, number: int, count: int) -> tuple[Tensor, Tensor]:
    """(B, count) the cases, of `number`, with the nearest images, and the nearest images, by distances (B, M)."""
    smallest = found.new_full((len(found), number), torch.inf)
    smallest.scatter_reduce_(1, places.expand(len(found), -1), found, "amin")
    near_cases = smallest.topk(min(count, number), largest=False).indices
    return near_cases, found.topk(min(count, len(places)), largest=False).indices
