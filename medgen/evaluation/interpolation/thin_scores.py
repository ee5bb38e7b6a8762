"""Scores of thin slices: errors by position, the measurement's residual, and the calibration of the spread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.artifacts.schema import Intensity
from medgen.diffusion.options import ProfileShape
from medgen.diffusion.slice_profile import coverage, cubic_matrix, linear_matrix, profile_matrix
from medgen.evaluation.interpolation.thin_pairs import CaseSlices, Flags, Trio
from medgen.evaluation.intervals import ANYTHING, mean_interval
from medgen.evaluation.reconstruction.pair_scores import RANGES
from medgen.nets.perception.similarity import WINDOW, ssim

Values = npt.NDArray[np.float64]

KINDS = ("between", "measured", "beyond")
WHOLE = 1.0 - 1e-3
"""A thick slice whose profile lies over thin ones by less is not compared with their average."""


@dataclass
class SliceScores:
    """PSNR, SSIM and mean absolute error of each slice by each method, all inside the window.

    A slice counts for all methods or for none: it is left out if a method or the truth is not finite, or the truth has
    a single value.
    """

    intensity: Intensity
    non_finite: int = 0
    constant: int = 0
    names: list[str] = field(default_factory=list)
    patients: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    _values: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)

    def add(
        self, truth: Tensor, images: dict[str, Tensor], sound: Flags, trio: Trio, rows: slice, patient: int
    ) -> Flags:
        """Add `rows` of a case, physical (B, C, H, W), `sound` where finite; returns which of them were scored (B,)."""
        varied: Flags = (truth.flatten(1).amax(1) > truth.flatten(1).amin(1)).numpy()
        self.non_finite += int((~sound).sum())
        self.constant += int((sound & ~varied).sum())
        kept: Flags = sound & varied
        if not kept.any():
            return kept
        b = self._unit(truth[kept])
        for method, image in images.items():
            a = self._unit(image[kept])
            squared = (a - b).square().flatten(1).mean(1)
            low, high = self.intensity.window
            found = {
                "psnr": torch.where(squared > 0, -10 * squared.log10(), torch.inf),
                "mae": (a - b).abs().flatten(1).mean(1) * (high - low),
            }
            if min(b.shape[-2:]) >= WINDOW:
                found["ssim"] = ssim(a, b, 1.0)
            for score, values in found.items():
                self._values.setdefault((method, score), []).append(values)
        self.names += [f"{trio.output.row.id}/{index}" for index in trio.numbers[rows][kept]]
        self.patients += [patient] * int(kept.sum())
        self.kinds += trio.kind[rows][kept].tolist()
        self.distances += trio.distance[rows][kept].round(3).tolist()
        return kept

    def values(self, method: str, score: str) -> Values:
        """One score of each slice that counts."""
        array: Values = torch.cat(self._values[method, score]).numpy()
        return array

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order in which they were added."""
        return list(dict.fromkeys(method for method, _ in self._values))

    @property
    def scores(self) -> list[str]:
        """Names of the scores."""
        return list(dict.fromkeys(score for _, score in self._values))

    def summary(self, where: Flags, seed: int) -> dict[str, Any]:
        """For some slices, each score by method with its interval over cases, and the set minus cubic interpolation."""
        cases = np.array(self.patients, np.int64)[where]
        told: dict[str, Any] = {"slices": int(where.sum()), "patients": len(np.unique(cases))}
        for method in self.methods:
            told[method] = {
                score: _mean(self.values(method, score)[where], cases, seed, RANGES.get(score, ANYTHING))
                for score in self.scores
            }
        told["set_minus_cubic"] = {
            score: _mean(_difference(self.values("set", score)[where], self.values("cubic", score)[where]), cases, seed)
            for score in self.scores
        }
        return told

    def _unit(self, physical: Tensor) -> Tensor:
        low, high = self.intensity.window
        return ((physical.double() - low) / (high - low)).clamp(0, 1)


def _difference(ours: Values, theirs: Values) -> Values:
    """Differences; PSNR has no finite one for slices that either method matches exactly."""
    with np.errstate(invalid="ignore"):
        return ours - theirs


def _mean(
    values: Values, cases: npt.NDArray[np.int64], seed: int, within: tuple[float, float] = ANYTHING
) -> dict[str, Any] | None:
    """The mean of the finite values, and its interval if there are two cases or more."""
    defined = np.isfinite(values)
    if not defined.any():
        return None
    known = values[defined]
    spread = mean_interval(known, cases[defined], within=within, seed=seed)
    return {
        "value": float(known.mean()),
        "low": spread["low"] if spread else None,
        "high": spread["high"] if spread else None,
    }


@dataclass
class Measurement:
    """How far thin slices, averaged over the thick slices' profile, are from the thick ones, in the physical unit."""

    profile: ProfileShape
    thickness: float | None
    """For thick slices without a known thickness; None: their distance."""
    slices: int = 0
    non_finite: int = 0
    _sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, trio: Trio) -> None:
        """Add one case; thick slices that lie partly beyond the thin ones are left out."""
        thickness = trio.thick.row.thickness or self.thickness or trio.thick.row.spacing[0]
        thick, thin = trio.thick.positions, trio.output.positions
        geometry = (thickness, self.profile, trio.output.row.spacing[0])
        whole = coverage(thick, thin, *geometry) > WHOLE
        kept = torch.nonzero(whole & torch.from_numpy(trio.thick.measured))[:, 0]
        if not len(kept):
            return
        measuring = profile_matrix(thick[kept], thin, *geometry)
        methods = {
            "set": (trio.output, measuring),
            "cubic": (trio.thick, measuring @ cubic_matrix(thin, thick)),
            "linear": (trio.thick, measuring @ linear_matrix(thin, thick)),
            **self._of_truth(trio, thick[kept], thickness),
        }
        identity = torch.eye(len(thick), dtype=torch.float64)[kept]
        for number in range(len(kept)):
            row = slice(number, number + 1)
            measured, sound = trio.thick.at(identity[row])
            found = {name: source.at(matrix[row]) for name, (source, matrix) in methods.items()}
            if not (sound.all() and all(fine.all() for _, fine in found.values())):
                self.non_finite += 1
                continue
            self.slices += 1
            for name, (image, _) in found.items():
                error = (image - measured).double()
                sums = self._sums.setdefault(name, [0.0, 0.0, 0.0, 0.0])
                sums[0] += error.numel()
                sums[1] += float(error.abs().sum())
                sums[2] += float(error.square().sum())
                sums[3] = max(sums[3], float(error.abs().max()))

    def _of_truth(self, trio: Trio, thick: Tensor, thickness: float) -> dict[str, tuple[CaseSlices, Tensor]]:
        """The same for the truth, where it reaches as far: how well the profile describes this pair at all."""
        geometry = (thickness, self.profile, trio.truth.row.spacing[0])
        if not bool((coverage(thick, trio.truth.positions, *geometry) > WHOLE).all()):
            return {}
        return {"truth": (trio.truth, profile_matrix(thick, trio.truth.positions, *geometry))}

    def result(self) -> dict[str, Any]:
        """Mean absolute, root-mean-square and largest residual of each method."""
        told: dict[str, Any] = {"slices": self.slices, "non_finite": self.non_finite, "profile": self.profile}
        for name, (count, absolute, squared, largest) in self._sums.items():
            told[name] = {"mae": absolute / count, "rmse": (squared / count) ** 0.5, "largest": largest}
        return told


@dataclass
class SpreadCalibration:
    """Whether the stored spread of samples is as large as the error of their mean is, voxel by voxel."""

    _sums: Values = field(default_factory=lambda: np.zeros(9))

    def add(self, error: Tensor, spread: Tensor) -> None:
        """Add errors and spreads (B, C, H, W) in the physical unit; voxels without spread are left out."""
        known = (spread > 0) & torch.isfinite(error)
        e, s = error[known].abs().double(), spread[known].double()
        moments = (e.square(), s.square(), (e <= s).double(), (e <= 2 * s).double(), e, s, e * s)
        self._sums += np.array([error.numel(), len(e), *(float(part.sum()) for part in moments)])

    def result(self) -> dict[str, Any] | None:
        """None where there was no spread."""
        every, count, squares, variance, one, two, error, spread, product = self._sums.tolist()
        if not count:
            return None
        pairs = ((squares, error), (variance, spread))
        deviations = [max(0.0, square / count - (mean / count) ** 2) for square, mean in pairs]
        scale = float(np.sqrt(np.prod(deviations)))
        covariance = product / count - error * spread / count**2
        return {
            "voxels": int(count),
            "without_spread": int(every - count),
            "rms_error": (squares / count) ** 0.5,
            "rms_spread": (variance / count) ** 0.5,
            "within_one": one / count,
            "within_two": two / count,
            "correlation": covariance / scale if scale > 0 else None,
        }
