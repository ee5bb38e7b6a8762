"""Depth windows of volumes as pairs: thin slices, and the guess of them made from thick slices alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.schema import Intensity
from medgen.artifacts.stored import CaseRow, StoredSet
from medgen.diffusion.options import ProfileShape
from medgen.diffusion.slice_profile import coverage, profile_matrix, resample
from medgen.diffusion.thin_grid import places, scales, window_spline
from medgen.errors import ConfigError, DataError
from medgen.training.data.options import Range, VolumeOptions
from medgen.training.data.sampler import Sampler
from medgen.training.data.slices import rows_of
from medgen.training.data.step import Batch, mix

KNOTS = 4
"""Thick slices beyond each end of a window that its spline hears of; farther ones weigh below 1 %."""
FINER = 1.2
"""Thick slices are at least this many times as far apart as thin ones."""


@dataclass(frozen=True)
class Window:
    """One drawn pair: which slices to read, and the matrices that turn them into target and guess."""

    slices: range
    target: Tensor  # (N, len(slices))
    thick_slices: range
    guess: Tensor  # (N, len(thick_slices))
    places: Tensor  # (2, N)
    scales: Tensor  # (3,)


class Volumes:
    """Windows of one split's volumes: `thin`, `guess` (B, N, C, H, W) in [-1, 1], `places` (B, 2, N), `scales` (B, 3).

    `guess` is the consistent spline through the thick slices, at the positions of `thin`. Thick slices are averaged
    in physical values, before any window; the spline assumes a box profile. A sample is a pure function of the seed
    and its position.
    """

    def __init__(
        self,
        stored: StoredSet,
        split: str,
        seed: int,
        options: VolumeOptions,
        factor: int = 1,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.options = options
        self._stored = stored
        self._seed = mix(seed, "windows", split)
        if stored.header.intensity is None:
            raise DataError("the set does not say what its image values mean (no intensity); preprocess it again")
        self._intensity: Intensity = stored.header.intensity
        rows = rows_of(stored, split)
        self._rows = [row for row in rows if self._usable(row)]
        if not self._rows:
            raise DataError(
                f"split '{split}': no case has {self._needed(rows[0])} even slices at most {options.thin_limit:g} mm "
                "apart, as volumes.depth, thick_spacing and thin_limit ask; give thin series, or lower them"
            )
        if len(self._rows) < len(rows):
            warn(f"split '{split}': {len(rows) - len(self._rows)} of {len(rows)} cases are not targets (too thick, "
                 "too short, or uneven)")  # fmt: skip
        self._partners = [[other for other in rows if self._is_partner(other, row)] for row in self._rows]
        self.paired = sum(bool(partners) for partners in self._partners)
        shape, _ = stored.arrays()["image"]  # (C, H, W)
        self.side = options.crop or 0
        if self.side % factor or self.side > min(shape[1:]):
            raise ConfigError(
                f"volumes.crop = {self.side} does not fit: a multiple of {factor}, at most {min(shape[1:])}"
            )
        self._shape = shape
        self._sampler = Sampler(np.arange(len(self._rows)), seed, group=np.ones(len(self._rows), dtype=bool))

    def __len__(self) -> int:
        return len(self._rows)

    def spacings(self) -> tuple[float, float]:
        """Smallest and largest distance of the targets' slices, mm."""
        steps = [row.spacing[0] for row in self._rows]
        return min(steps) * self.options.coarser[0], max(steps) * self.options.coarser[1]

    def at(self, positions: Sequence[int]) -> Batch:
        """The windows at these positions of the training."""
        samples = [
            self._sample(int(row), place) for row, place in zip(self._sampler[positions], positions, strict=True)
        ]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def told(self, positions: Sequence[int]) -> list[str]:
        """Nothing: windows are asked to show what lies between thick slices, which is shown beside them."""
        return [""] * len(positions)

    def faulty(self, positions: Sequence[int]) -> str | None:
        """Name the first case among these, or their thick partners, whose slices hold a value that is not finite."""
        numbers = map(int, self._sampler[positions])
        for row in (row for number in numbers for row in (self._rows[number], *self._partners[number])):
            for index in range(row.start, row.start + row.count):
                if not np.isfinite(self._stored.read("image", [index])).all():
                    return f"slice {index - row.start} of case {row.id} holds image values that are not finite"
        return None

    def _sample(self, number: int, position: int) -> Batch:
        random = np.random.default_rng(mix(self._seed, position))
        row, partners = self._rows[number], self._partners[number]
        window = None
        if partners and random.random() < self.options.paired:
            window = self._paired(row, partners[int(random.integers(len(partners)))], random)
        if window is None:
            window = self._simulated(row, random)
        plane = self._plane(random)
        thin = self._read(window.slices, plane)
        thick = thin if window.thick_slices == window.slices else self._read(window.thick_slices, plane)
        return {
            "thin": self._normalized(resample(thin, window.target, dim=0)),
            "guess": self._normalized(resample(thick, window.guess, dim=0)),
            "places": window.places,
            "scales": window.scales,
        }

    def _simulated(self, row: CaseRow, random: np.random.Generator) -> Window:
        """Thick slices of random profile, distance, thickness and phase, simulated from the thin ones."""
        options, native = self.options, row.spacing[0]
        depth, extent = options.depth, row.count * native
        ratio = _between(random, options.coarser)
        ratio = min(ratio, row.count / depth)
        spacing = ratio * native
        low = max(options.thick_spacing[0], FINER * spacing)
        high = max(low, min(options.thick_spacing[1], extent / 2.5))
        step = float(np.exp(random.uniform(np.log(low), np.log(high))))
        thickness = max(_between(random, options.thickness) * step, native)
        shape: ProfileShape = "gaussian" if random.random() < options.gaussian else "box"
        # mm from the near edge of the first slice
        slices = (torch.arange(row.count, dtype=torch.float64) + 0.5) * native
        if ratio == 1:
            first = float(slices[int(random.integers(row.count - depth + 1))])
        else:
            first = spacing / 2 + random.uniform(0, extent - depth * spacing)
        thin = first + spacing * torch.arange(depth, dtype=torch.float64)
        centres = random.uniform(0, step) + step * torch.arange(int(extent / step) + 1, dtype=torch.float64)
        centres = centres[coverage(centres, slices, thickness, shape, native) > 0.99]
        if len(centres) < 2:  # centred, as in a short scan
            thickness = min(thickness, extent - step)
            centres = extent / 2 + step * torch.tensor([-0.5, 0.5], dtype=torch.float64)
        centres = centres[_near(centres, thin)]
        target = torch.eye(row.count, dtype=torch.float64)[(thin / native - 0.5).round().long()]
        if ratio != 1:
            target = profile_matrix(thin, slices, spacing, "box", native)
        measured = profile_matrix(centres, slices, thickness, shape, native)
        guess = window_spline(thin, centres, thickness, spacing) @ measured
        used = np.flatnonzero((target.abs().sum(0) + guess.abs().sum(0)).numpy() > 0)
        cut = slice(int(used[0]), int(used[-1]) + 1)
        numbers = range(row.start + cut.start, row.start + cut.stop)
        return Window(
            numbers,
            target[:, cut],
            numbers,
            guess[:, cut],
            places(thin, centres, thickness, spacing),
            scales(spacing, step, thickness),
        )

    def _paired(self, row: CaseRow, thick: CaseRow, random: np.random.Generator) -> Window | None:
        """Real thick slices from the scanner; None where the two series share no window."""
        depth, thickness = self.options.depth, thick.thickness or thick.spacing[0]
        slices, centres = torch.from_numpy(row.positions), torch.from_numpy(thick.positions)
        inside = (slices >= centres[0] - thickness / 2) & (slices <= centres[-1] + thickness / 2)
        starts = [start for start in range(row.count - depth + 1) if inside[start] and inside[start + depth - 1]]
        if not starts:
            return None
        start = starts[int(random.integers(len(starts)))]
        thin = slices[start : start + depth]
        near = _near(centres, thin)
        return Window(
            range(row.start + start, row.start + start + depth),
            torch.eye(depth, dtype=torch.float64),
            range(thick.start + near.start, thick.start + near.stop),
            window_spline(thin, centres[near], thickness, row.spacing[0]),
            places(thin, centres[near], thickness, row.spacing[0]),
            scales(row.spacing[0], thick.spacing[0], thickness),
        )

    def _needed(self, row: CaseRow) -> int:
        """Slices that a case must have: a window, and the extent of 2.5 of the most closely spaced thick slices."""
        return max(self.options.depth, int(np.ceil(2.5 * self.options.thick_spacing[0] / row.spacing[0])))

    def _usable(self, row: CaseRow) -> bool:
        """Whether a case is thin and long enough, and all its slices were measured."""
        whole = not row.uneven and not any(row.filled)
        return whole and row.spacing[0] <= self.options.thin_limit and row.count >= self._needed(row)

    @staticmethod
    def _is_partner(thick: CaseRow, thin: CaseRow) -> bool:
        """Whether the slices of `thick` are farther apart, and match those of `thin` in plane."""
        if not thin.frame or thick.frame != thin.frame or thick.uneven or any(thick.filled) or thick.count < 2:
            return False
        pixel = thin.spacing[1:]
        shift = np.subtract(thick.origin, thin.origin)
        aside = [float(shift @ thin.direction[3 * axis : 3 * axis + 3]) for axis in (1, 2)]
        return (
            thick.spacing[0] >= FINER * thin.spacing[0]
            and np.allclose(thick.direction, thin.direction, atol=1e-3)
            and np.allclose(thick.spacing[1:], pixel, rtol=1e-3)
            and all(abs(value) < 0.1 * side for value, side in zip(aside, pixel, strict=True))
        )

    def _plane(self, random: np.random.Generator) -> tuple[slice, slice]:
        """The in-plane part of the slices to read."""
        if not self.side:
            return slice(None), slice(None)
        top, left = (int(random.integers(side - self.side + 1)) for side in self._shape[1:])
        return slice(top, top + self.side), slice(left, left + self.side)

    def _read(self, slices: range, plane: tuple[slice, slice]) -> Tensor:
        """Stored values as float32, (len(slices), C, h, w)."""
        return torch.from_numpy(self._stored.read("image", slices, plane).astype(np.float32))

    def _normalized(self, stored: Tensor) -> Tensor:
        return torch.from_numpy(self._intensity.normalized(stored.numpy()))


def _between(random: np.random.Generator, limits: Range) -> float:
    return limits[0] if limits[0] == limits[1] else float(random.uniform(*limits))


def _near(centres: Tensor, thin: Tensor) -> slice:
    """The thick slices between the ends of a window, and the next `KNOTS` on either side."""
    first = int(torch.searchsorted(centres, thin[0])) - KNOTS
    last = int(torch.searchsorted(centres, thin[-1])) + KNOTS
    return slice(max(first, 0), min(last, len(centres)))
