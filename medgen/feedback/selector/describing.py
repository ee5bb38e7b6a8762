"""Features of cases for a selector: those of its slices, averaged."""

from __future__ import annotations

from collections.abc import Sequence

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
from medgen.reporting import Advance, unseen

SLICES = 16
"""Slices described at once."""
PARTS = ("vector", "mask", *TEXT_NAMES)


def describe_case(case: Case, intensity: Intensity, parts: Sequence[str], describe: Describer) -> tuple[Tensor, Tensor]:
    """Features (F,) of a case's image and (R,) of the named parts of its request; DataError if they are not finite."""
    images, requests = [], []
    for start in range(0, len(case), SLICES):
        rows = slice(start, start + SLICES)
        values = torch.from_numpy(intensity.normalized(case.stack("image")[rows]))
        image, request = describe(values, requested_of(case, parts, rows))
        images.append(image)
        requests.append(request)
    found = torch.cat(images).mean(dim=0), torch.cat(requests).mean(dim=0)
    if not all(bool(torch.isfinite(one).all()) for one in found):
        raise DataError(f"case {case.id}: the image or its request holds NaN or infinity")
    return found


def describe_cases(
    sets: Sequence[StoredSet],
    cases: npt.NDArray[np.int64],
    parts: Sequence[str],
    describe: Describer,
    advance: Advance = unseen,
) -> Described:
    """Features of these cases of the sets, which are numbered through, one set after the other."""
    starts = np.cumsum([0, *(len(stored) for stored in sets)])
    images, requests, owners = [], [], []
    for number in cases.tolist():
        which = int(np.searchsorted(starts, number, side="right")) - 1
        case, intensity = sets[which].view(number - int(starts[which])), sets[which].header.intensity
        if intensity is None:
            raise ValueError("an image set says what its values mean")
        image, request = describe_case(case, intensity, parts, describe)
        images.append(image.double().cpu().numpy())
        requests.append(request.double().cpu().numpy())
        owners.append(patient_in(case.id) or f"{which}/{case.id}")
        advance(1)
    groups = np.unique(owners, return_inverse=True)[1].astype(np.int64)
    return Described(np.stack(images), np.stack(requests), groups, describe.regions)


def parts_of(sets: Sequence[StoredSet]) -> tuple[str, ...]:
    """The parts of requests that all of the sets have."""
    return tuple(name for name in PARTS if all(stored.has(name) for stored in sets))
