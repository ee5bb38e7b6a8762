"""How well images agree with the images they should equal, pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.schema import Array, Intensity
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.metrics.inputs import Inputs
from medgen.metrics.section import Section, Table, number
from medgen.nets.similarity import MS_SSIM_WEIGHTS, ms_ssim, scales_that_fit, ssim

BATCH = 32


def lacking(inputs: Inputs) -> str:
    """What is missing, with the remedy; "" for nothing."""
    real = inputs.reference
    shared = real is not None and {row.id for row in inputs.stored.cases} & {row.id for row in real.cases}
    if inputs.vae is None and not shared:
        return "needs pairs: give --vae, or a --reference that holds the same cases"
    return ""


def measure(inputs: Inputs) -> Section:
    """Score the set against its reconstruction by the VAE, or else against the reference's cases of equal id."""
    stored, real, vae = inputs.stored, inputs.reference, inputs.vae
    with inputs.progress(stored.slices, "slices") as advance:
        if vae is not None:
            result = compare_with_model(stored, vae.reconstruct, advance) | {"vae_digest": vae.digest}
        elif real is not None:
            result = compare_sets(stored, real, advance)
        else:
            raise ValueError("reconstruction needs a VAE or a reference")
    unit = result["unit"]
    names = {
        "psnr": "PSNR (dB)",
        "ssim": "SSIM",
        "ms_ssim": f"MS-SSIM ({result['ms_ssim_scales']} scales)",
        "mse": "MSE in [0, 1]",
        "mae": "MAE in [0, 1]",
        "mae_physical": f"MAE ({unit})",
        "rmse_physical": f"RMSE ({unit})",
    }
    rows = [
        [title, *(number(result[name][column]) for column in ("mean", "std", "median"))]
        for name, title in names.items()
        if result.get(name)
    ]
    table = Table(f"reconstruction of {result['pairs']} slices", ("", "mean", "std", "median"), rows)
    warnings = [
        f"{result[name]} pairs {what}; they are not in the means"
        for name, what in {"non_finite": "hold NaN or infinity", "constant": "show one value only"}.items()
        if result[name]
    ]
    return Section("reconstruction", "Reconstruction", result, [table], warnings)


@dataclass
class ReconstructionScores:
    """Scores of pairs of slices, taken in batch by batch. Pairs that cannot be scored are counted, not averaged in.

    Everything is measured inside the window: in [0, 1], and in the physical unit.
    """

    intensity: Intensity
    pairs: int = 0
    non_finite: int = 0
    constant: int = 0
    """The reference shows one value only: structure cannot be compared."""
    identical: int = 0
    """PSNR is infinite, and left out of its mean."""
    scales: int = 0
    _values: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, images: Tensor, references: Tensor) -> None:
        """Take in images and references (B, C, H, W) in [-1, 1]."""
        self.pairs += len(images)
        finite = torch.isfinite(images).flatten(1).all(1) & torch.isfinite(references).flatten(1).all(1)
        self.non_finite += int((~finite).sum())
        varied = references.flatten(1).amax(1) > references.flatten(1).amin(1)
        self.constant += int((finite & ~varied).sum())
        kept = finite & varied
        if not kept.any():
            return
        a, b = ((x[kept].double().clamp(-1, 1) + 1) / 2 for x in (images, references))
        squared = (a - b).square().flatten(1).mean(1)
        absolute = (a - b).abs().flatten(1).mean(1)
        same = squared == 0
        self.identical += int(same.sum())
        low, high = self.intensity.window
        self._put("psnr", -10 * squared[~same].log10())
        self._put("mse", squared)
        self._put("mae", absolute)
        self._put("rmse_physical", squared.sqrt() * (high - low))
        self._put("mae_physical", absolute * (high - low))
        side = min(a.shape[-2:])
        if side >= 11:
            self._put("ssim", ssim(a, b, 1.0))
        self.scales = scales_that_fit(side)
        if self.scales:
            weights = MS_SSIM_WEIGHTS[: self.scales]
            total = sum(weights)
            self._put("ms_ssim", ms_ssim(a, b, 1.0, weights=[weight / total for weight in weights]))

    def result(self) -> dict[str, Any]:
        """Mean, standard deviation and median of each score over slices."""
        summary: dict[str, Any] = {
            "pairs": self.pairs,
            "non_finite": self.non_finite,
            "constant": self.constant,
            "identical": self.identical,
            "unit": self.intensity.unit,
            "ms_ssim_scales": self.scales,
        }
        for name, parts in self._values.items():
            values = torch.cat(parts).numpy()
            summary[name] = None
            if len(values):
                summary[name] = {
                    "mean": float(values.mean()),
                    "std": float(values.std()),
                    "median": float(np.median(values)),
                }
        return summary

    def _put(self, name: str, values: Tensor) -> None:
        self._values.setdefault(name, []).append(values.detach().double().cpu())


def compare_sets(
    stored: StoredSet, reference: StoredSet, advance: Callable[[int], object] = lambda n: None
) -> dict[str, Any]:
    """Score the slices of the cases that are in both sets, by case id; DataError if there is none, or depths differ."""
    ours, theirs = intensity_of(stored, "the set"), intensity_of(reference, "the reference")
    if (ours.unit, ours.window) != (theirs.unit, theirs.window):
        raise DataError(
            f"the set has window {ours.window} {ours.unit} and the reference {theirs.window} {theirs.unit}; "
            "preprocess both with one window"
        )
    rows = {row.id: row for row in reference.cases}
    paired = [(row, rows[row.id]) for row in stored.cases if row.id in rows]
    if not paired:
        raise DataError("no case of the set is in the reference: reconstruction compares cases of equal id")
    scores = ReconstructionScores(theirs)
    for mine, other in paired:
        if mine.count != other.count:
            raise DataError(f"case {mine.id}: {mine.count} slices in the set, {other.count} in the reference")
        for start in range(0, mine.count, BATCH):
            count = min(BATCH, mine.count - start)
            a = ours.normalized(stored.read("image", range(mine.start + start, mine.start + start + count)))
            b = theirs.normalized(reference.read("image", range(other.start + start, other.start + start + count)))
            if a.shape != b.shape:
                raise DataError(f"case {mine.id}: images of {_size(a)} in the set, of {_size(b)} in the reference")
            scores.add(torch.from_numpy(a), torch.from_numpy(b))
            advance(count)
    unpaired = {"set": len(stored) - len(paired), "reference": len(reference) - len(paired)}
    return {"cases": len(paired), "unpaired_cases": unpaired, **scores.result()}


def compare_with_model(
    stored: StoredSet, reconstruct: Callable[[Tensor], Tensor], advance: Callable[[int], object] = lambda n: None
) -> dict[str, Any]:
    """Score what `reconstruct` (images in [-1, 1] to images) makes of each slice of a set, against the slice itself."""
    intensity = intensity_of(stored, "the set")
    scores = ReconstructionScores(intensity)
    for start in range(0, stored.slices, BATCH):
        rows = range(start, min(start + BATCH, stored.slices))
        images = torch.from_numpy(intensity.normalized(stored.read("image", rows)))
        scores.add(reconstruct(images).cpu(), images)
        advance(len(rows))
    return {"cases": len(stored), **scores.result()}


def intensity_of(stored: StoredSet, what: str) -> Intensity:
    """The intensity of an image set; DataError for a set of another kind."""
    if stored.header.kind != "image" or stored.header.intensity is None:
        raise DataError(f"{what} is of kind '{stored.header.kind}'; its metrics need images")
    return stored.header.intensity


def _size(images: Array) -> str:
    return " x ".join(map(str, images.shape[1:]))
