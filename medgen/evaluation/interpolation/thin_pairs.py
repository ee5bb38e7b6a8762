"""Interpolated slices, the thick ones they were made from, and the thin ones they should equal, at positions in mm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.artifacts.schema import Intensity
from medgen.artifacts.stored import CaseRow, StoredSet
from medgen.diffusion.slice_profile import cubic_matrix, linear_matrix, resample
from medgen.errors import DataError
from medgen.evaluation.pairing import MEASURED, REFERENCE, THICK, UNNAMED, Pairing

Flags = npt.NDArray[np.bool_]

SAME_PLACE = 0.1
"""Slices nearer than this share of their spacing lie in the same place."""
FINER = 0.01
"""A spacing smaller by less than this share is not finer."""
NEGLIGIBLE = 1e-6
"""Weights of a spline smaller than this are left out, so that a slice needs but its neighbourhood."""


@dataclass(frozen=True)
class CaseSlices:
    """The slices of one case, in physical values, at any positions along z."""

    stored: StoredSet
    row: CaseRow
    intensity: Intensity

    @cached_property
    def positions(self) -> Tensor:
        """(D,) mm along z."""
        return torch.from_numpy(self.row.positions)

    @property
    def measured(self) -> Flags:
        """(D,) whether a slice was measured, rather than filled into a gap."""
        return ~np.array(self.row.filled or (False,) * self.row.count)

    def at(self, matrix: Tensor, name: str = "image") -> tuple[Tensor, Flags]:
        """Matrix (K, D) times the slices: (K, C, H, W) float32, and which of them use finite values only (K,)."""
        weights = torch.where(matrix.abs() > NEGLIGIBLE, matrix, 0.0)
        used = torch.nonzero((weights != 0).any(dim=0))[:, 0]
        first, last = int(used[0]), int(used[-1]) + 1
        numbers = self.stored.read(name, range(self.row.start + first, self.row.start + last))
        values = torch.from_numpy(self.intensity.physical(numbers) if name == "image" else numbers.astype(np.float32))
        finite = torch.isfinite(values).flatten(1).all(dim=1)
        band = weights[:, first:last]
        images = resample(torch.nan_to_num(values), band, dim=0)
        return images, (band[:, ~finite].abs() <= 1e-3).all(dim=1).numpy()


@dataclass(frozen=True)
class Trio:
    """One interpolated case, its thick input, and its thin truth."""

    output: CaseSlices
    thick: CaseSlices
    truth: CaseSlices

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """Slices of the truth that were measured and lie within the interpolated volume."""
        reach = 0.5 * self.output.row.spacing[0] + SAME_PLACE * self.truth.row.spacing[0]
        low, high = float(self.output.positions[0]) - reach, float(self.output.positions[-1]) + reach
        inside = (self.truth.row.positions > low) & (self.truth.row.positions < high)
        return np.flatnonzero(inside & self.truth.measured).astype(np.int64)

    @cached_property
    def places(self) -> Tensor:
        """(K,) their positions, mm."""
        return self.truth.positions[self.numbers]

    @cached_property
    def distance(self) -> npt.NDArray[np.float64]:
        """(K,) mm from each to the nearest centre of a thick slice."""
        measured = self.thick.positions[torch.from_numpy(self.thick.measured)]
        return (self.places[:, None] - measured).abs().amin(dim=1).numpy()

    @cached_property
    def kind(self) -> npt.NDArray[np.str_]:
        """(K,) `measured` at a thick slice's centre, `between` two, or `beyond` the outermost."""
        measured = self.distance <= 0.25 * self.truth.row.spacing[0]
        inner = (self.places >= self.thick.positions[0]) & (self.places <= self.thick.positions[-1])
        return np.where(measured, "measured", np.where(inner.numpy(), "between", "beyond"))

    @cached_property
    def matrices(self) -> dict[str, tuple[CaseSlices, Tensor]]:
        """Each method's slices and the matrix (K, D) that makes its images from them; none uses values of the truth."""
        return {
            "set": (self.output, self._output_matrix),
            "cubic": (self.thick, cubic_matrix(self.places, self.thick.positions)),
            "linear": (self.thick, linear_matrix(self.places, self.thick.positions)),
        }

    @property
    def aligned(self) -> bool:
        """Whether each slice of the truth has an interpolated one at its position."""
        gaps = (self.places[:, None] - self.output.positions).abs().amin(dim=1)
        return bool((gaps <= SAME_PLACE * self.truth.row.spacing[0]).all())

    @property
    def _output_matrix(self) -> Tensor:
        if not self.aligned:
            return cubic_matrix(self.places, self.output.positions)
        nearest = (self.places[:, None] - self.output.positions).abs().argmin(dim=1)
        return torch.eye(self.output.row.count, dtype=torch.float64)[nearest]


@dataclass(frozen=True)
class Trios:
    """All cases of a set that have both, and the number that do not."""

    cases: list[Trio]
    without_thick: int
    without_truth: int
    flawed: int
    """Cases whose truth is not evenly spaced along z."""


def find_trios(output: StoredSet, thick: StoredSet, truth: StoredSet, pairing: Pairing = UNNAMED) -> Trios:
    """Thick series are coarser than the output, the truth is finer; `pairing` tells which belong together.

    DataError if the sets show different things, or nothing matches.
    """
    ours, coarse, fine = (
        _intensity(stored, what)
        for stored, what in ((output, "the set"), (thick, "the set of --thick"), (truth, "the reference"))
    )
    for intensity, what in ((ours, "the set"), (coarse, "the set of --thick")):
        if (intensity.unit, intensity.window) != (fine.unit, fine.window):
            raise DataError(
                f"{what} has window {intensity.window} {intensity.unit}, the reference {fine.window} {fine.unit}; "
                "preprocess both with one window"
            )
    cases: list[Trio] = []
    missing = {"thick": 0, "truth": 0, "flawed": 0}
    for row in output.cases:
        coarser = [one for one in thick.cases if one.spacing[0] > row.spacing[0] * (1 + FINER)]
        source = _nearest(row, pairing.partners(row, MEASURED, coarser, THICK))
        if source is None:
            missing["thick"] += 1
            continue
        finer = [one for one in truth.cases if one.spacing[0] < source.spacing[0] * (1 - FINER)]
        target = _nearest(row, pairing.partners(row, MEASURED, finer, REFERENCE))
        if target is None:
            missing["truth"] += 1
        elif target.uneven:
            missing["flawed"] += 1
        else:
            for other, stored, what in ((source, thick, "thick input"), (target, truth, "reference")):
                _check_plane(row, output, other, stored, what)
            trio = Trio(
                CaseSlices(output, row, ours), CaseSlices(thick, source, coarse), CaseSlices(truth, target, fine)
            )
            if len(trio.numbers):
                cases.append(trio)
            else:
                missing["truth"] += 1
    if not cases:
        raise DataError(
            f"no case of the set has both: {missing['thick']} lack the thick input, {missing['truth']} the thin truth, "
            f"and of {missing['flawed']} the truth is unevenly spaced; cases match by id or frame of reference, or as "
            "--pair-by says"
        )
    return Trios(cases, missing["thick"], missing["truth"], missing["flawed"])


def batches(trio: Trio, size: int) -> Iterator[slice]:
    """Rows of `trio.numbers`, a few at a time."""
    for start in range(0, len(trio.numbers), size):
        yield slice(start, min(start + size, len(trio.numbers)))


def _intensity(stored: StoredSet, what: str) -> Intensity:
    if stored.header.kind != "image" or stored.header.intensity is None:
        raise DataError(f"{what} is of kind '{stored.header.kind}'; interpolation is measured on images")
    return stored.header.intensity


def _nearest(row: CaseRow, partners: Sequence[CaseRow]) -> CaseRow | None:
    """Of several series of one scan, the one with the nearest spacing; None if there are none."""
    return min(partners, key=lambda one: abs(one.spacing[0] - row.spacing[0]), default=None)


def _check_plane(row: CaseRow, output: StoredSet, other: CaseRow, stored: StoredSet, what: str) -> None:
    """DataError unless the slices of both cover the same area with the same pixels."""
    ours, theirs = output.arrays()["image"][0], stored.arrays()["image"][0]
    if ours != theirs:
        sizes = (" x ".join(map(str, shape)) for shape in (ours, theirs))
        raise DataError(f"case {row.id}: images of {' in the set, of '.join(sizes)} in the {what}")
    axes = np.asarray(row.direction).reshape(3, 3)
    pixel = np.asarray(row.spacing[1:])
    shift = axes[1:] @ (np.asarray(other.origin) - np.asarray(row.origin))
    turned = np.abs(axes - np.asarray(other.direction).reshape(3, 3)).max() > 0.01
    if turned or (np.abs(shift) > 0.5 * pixel).any() or not np.allclose(pixel, other.spacing[1:], rtol=0.005):
        raise DataError(f"case {row.id}: its {what} lies elsewhere in the plane; preprocess both in the same way")
