"""Scores of pairs of slices (an image and the one it should equal), added batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.artifacts.schema import Intensity
from medgen.evaluation.intervals import ANYTHING, mean_interval
from medgen.evaluation.pictures import picture
from medgen.evaluation.section import Panel
from medgen.nets.perception.similarity import MS_SSIM_WEIGHTS, WINDOW, ms_ssim, scales_that_fit, ssim, ssim_map

WORST = 4
"""Pairs kept for the eye."""
ERROR, SIMILARITY = (0.0, np.inf), (-1.0, 1.0)
RANGES = {"ssim": SIMILARITY, "ms_ssim": SIMILARITY, "lpips": ERROR, "mse": ERROR, "mae": ERROR}
RANGES |= {"mae_physical": ERROR, "rmse_physical": ERROR}
"""What a mean of them can be."""
WITHOUT_SSIM = f"SSIM needs sides of {WINDOW} pixels at least; it is left out"


@dataclass(frozen=True)
class Place:
    """Where a slice stands: its name for people and for pairing, and its case."""

    name: str
    case: int


@dataclass
class PairScores:
    """Scores of pairs. Pairs that cannot be scored are counted, but left out of the means.

    Everything is measured inside the window: in [0, 1], and in the physical unit. With a foreground, errors and SSIM
    are means over its pixels, and the scores that need whole images (MS-SSIM, LPIPS) are left out.
    """

    intensity: Intensity
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None
    """Distances (B,) of images (B, C, H, W) in [-1, 1]."""
    pairs: int = 0
    non_finite: int = 0
    constant: int = 0
    """Pairs whose reference has a single value, so that structure cannot be compared."""
    without_foreground: int = 0
    identical: int = 0
    """Pairs whose PSNR is infinite, and left out of its mean."""
    at_margin: int = 0
    """Pairs whose foreground lies where no window of SSIM does; left out of the mean of SSIM."""
    scales: int = 0
    places: list[Place] = field(default_factory=list)
    """Of the pairs scored."""
    worst: list[tuple[float, Place, list[Panel]]] = field(default_factory=list)
    """The pairs with the lowest SSIM (where images are too small for it: the highest error), worst first."""
    _values: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(
        self, images: Tensor, references: Tensor, places: Sequence[Place], foreground: Tensor | None = None
    ) -> None:
        """Take in images and references (B, C, H, W) in [-1, 1], and which pixels count (B, 1, H, W)."""
        self.pairs += len(images)
        finite = torch.isfinite(images).flatten(1).all(1) & torch.isfinite(references).flatten(1).all(1)
        varied = references.flatten(1).amax(1) > references.flatten(1).amin(1)
        seen = torch.ones_like(finite) if foreground is None else foreground.flatten(1).any(1)
        self.non_finite += int((~finite).sum())
        self.constant += int((finite & ~varied).sum())
        self.without_foreground += int((finite & varied & ~seen).sum())
        kept = finite & varied & seen
        if not kept.any():
            return
        a, b = ((x[kept].double().clamp(-1, 1) + 1) / 2 for x in (images, references))
        weight = torch.ones_like(b[:, :1]) if foreground is None else foreground[kept].double()
        weight = weight / weight.sum((1, 2, 3), keepdim=True) / a.shape[1]
        squared = ((a - b).square() * weight).sum((1, 2, 3))
        absolute = ((a - b).abs() * weight).sum((1, 2, 3))
        self.identical += int((squared == 0).sum())
        low, high = self.intensity.window
        scores = {
            "psnr": torch.where(squared > 0, -10 * squared.log10(), torch.inf),
            "mse": squared,
            "mae": absolute,
            "rmse_physical": squared.sqrt() * (high - low),
            "mae_physical": absolute * (high - low),
        }
        side = min(a.shape[-2:])
        if side >= WINDOW:
            scores["ssim"] = ssim(a, b, 1.0) if foreground is None else _inside(ssim_map(a, b, 1.0), weight)
            self.at_margin += int(scores["ssim"].isnan().sum())
        if foreground is None:
            self.scales = scales_that_fit(side)
            if self.scales:
                weights = MS_SSIM_WEIGHTS[: self.scales]
                scores["ms_ssim"] = ms_ssim(a, b, 1.0, weights=[share / sum(weights) for share in weights])
            if self.lpips is not None:
                scores["lpips"] = self.lpips(images[kept], references[kept])
        for name, values in scores.items():
            self._values.setdefault(name, []).append(values.detach().double().cpu())
        told = [place for place, keep in zip(places, kept.tolist(), strict=True) if keep]
        self.places += told
        self._keep_worst(a, b, scores.get("ssim", -squared).nan_to_num(nan=1.0), told)

    @property
    def measured(self) -> list[str]:
        """Names of the scores taken."""
        return list(self._values)

    def values(self, name: str) -> npt.NDArray[np.float64]:
        """One score of each pair scored, in the order of `places`; PSNR is infinite for equal images."""
        array: npt.NDArray[np.float64] = torch.cat(self._values[name]).numpy()
        return array

    def result(self, seed: int = 0) -> dict[str, Any]:
        """Mean, standard deviation, median and, by the bootstrap over cases, the interval of each score."""
        summary: dict[str, Any] = {
            "pairs": self.pairs,
            "non_finite": self.non_finite,
            "constant": self.constant,
            "without_foreground": self.without_foreground,
            "identical": self.identical,
            "at_margin": self.at_margin,
            "unit": self.intensity.unit,
            "ms_ssim_scales": self.scales,
        }
        cases = np.array([place.case for place in self.places], np.int64)
        for name in self._values:
            values = self.values(name)
            defined = np.isfinite(values)
            summary[name] = None
            if defined.any():
                known = values[defined]
                spread = mean_interval(known, cases[defined], within=RANGES.get(name, ANYTHING), seed=seed)
                summary[name] = {
                    "mean": float(known.mean()),
                    "std": float(known.std()),
                    "median": float(np.median(known)),
                    "interval": None if spread is None else [spread["low"], spread["high"]],
                }
        return summary

    def _keep_worst(self, a: Tensor, b: Tensor, quality: Tensor, places: Sequence[Place]) -> None:
        for row in quality.argsort()[:WORST].tolist():
            value = float(quality[row])
            if len(self.worst) == WORST and value >= self.worst[-1][0]:
                break
            error = (a[row] - b[row]).abs()
            largest = float(error.max())
            pictures = [
                picture(b[row], "reference", black=0, white=1),
                picture(a[row], places[row].name, black=0, white=1),
                picture(error, f"difference, white = {largest:.2g}", black=0, white=max(largest, 1e-12)),
            ]
            self.worst = sorted([*self.worst, (value, places[row], pictures)], key=lambda one: one[0])[:WORST]


def _inside(similarity: Tensor, weight: Tensor) -> Tensor:
    """Mean of a similarity map (B, C, h, w), which has no margin, over the foreground; NaN if this is in the margin."""
    margin = [(weight.shape[axis] - similarity.shape[axis]) // 2 for axis in (2, 3)]
    inner = weight[:, :, margin[0] :, margin[1] :][:, :, : similarity.shape[2], : similarity.shape[3]]
    return (similarity.mean(1, keepdim=True) * inner).sum((1, 2, 3)) / inner.sum((1, 2, 3))
