"""Features of cases for a selector: those of its slices, averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.artifacts.schema import TEXT_NAMES, Case, Intensity
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.feedback.selector.fitting import Described
from medgen.imaging.cases.identity import patient_in
from medgen.models.selector import Describer, requested_of
from medgen.nets.perception.requested import joined
from medgen.reporting import Advance, unseen

SLICES = 16
"""Slices described at once."""
PARTS = ("vector", "mask", *TEXT_NAMES)


def describe_some(
    cases: Sequence[Case], intensity: Intensity, parts: Sequence[str], describe: Describer
) -> list[tuple[Tensor, Tensor]]:
    """Features (F,) of each case's image and (R,) of the named parts of its request; DataError if not all are finite.

    Slices of several cases are described at once, which changes no bit of the features.
    """
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in cases]
    for pieces in _pieces(cases):
        stacks = [(cases[number], rows) for number, rows in pieces]
        values = np.concatenate([intensity.normalized(case.stack("image")[rows]) for case, rows in stacks])
        requested = joined([requested_of(case, parts, rows) for case, rows in stacks])
        features = describe(torch.from_numpy(values), requested)
        counts = [rows.stop - rows.start for _, rows in pieces]
        for (number, _), *both in zip(pieces, *(torch.split(one, counts) for one in features), strict=True):
            found[number].append((both[0], both[1]))
    return [_mean(case, rows) for case, rows in zip(cases, found, strict=True)]


def _pieces(cases: Sequence[Case]) -> Iterator[list[tuple[int, slice]]]:
    """Runs of slices of the cases, by number, SLICES of them at a time at most."""
    pieces: list[tuple[int, slice]] = []
    held = 0
    for number, case in enumerate(cases):
        for start in range(0, len(case), SLICES):
            rows = slice(start, min(start + SLICES, len(case)))
            if held + rows.stop - rows.start > SLICES:
                yield pieces
                pieces, held = [], 0
            pieces.append((number, rows))
            held += rows.stop - rows.start
    if pieces:
        yield pieces


def _mean(case: Case, rows: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    image, request = (torch.cat(part).mean(dim=0) for part in zip(*rows, strict=True))
    if not all(bool(torch.isfinite(one).all()) for one in (image, request)):
        raise DataError(f"case {case.id}: the image or its request holds NaN or infinity")
    return image, request


def describe_cases(
    sets: Sequence[StoredSet],
    cases: npt.NDArray[np.int64],
    parts: Sequence[str],
    describe: Describer,
    advance: Advance = unseen,
) -> Described:
    """Features of cases of the sets; `cases` counts through all sets, one after the other."""
    starts = np.cumsum([0, *(len(stored) for stored in sets)])
    images, requests, owners = [], [], []
    for number in cases.tolist():
        which = int(np.searchsorted(starts, number, side="right")) - 1
        case, intensity = sets[which].view(number - int(starts[which])), sets[which].header.intensity
        if intensity is None:
            raise ValueError("an image set says what its values mean")
        [(image, request)] = describe_some([case], intensity, parts, describe)
        images.append(image.double().cpu().numpy())
        requests.append(request.double().cpu().numpy())
        owners.append(patient_in(case.id) or f"{which}/{case.id}")
        advance(1)
    groups = np.unique(owners, return_inverse=True)[1].astype(np.int64)
    return Described(np.stack(images), np.stack(requests), groups, describe.regions)


def parts_of(sets: Sequence[StoredSet]) -> tuple[str, ...]:
    """The parts of requests that all sets have."""
    return tuple(name for name in PARTS if all(stored.has(name) for stored in sets))
