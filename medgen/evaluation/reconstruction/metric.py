"""How well images agree with the images they should equal, pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.schema import Array, Intensity
from medgen.artifacts.stored import StoredSet
from medgen.artifacts.tensors.foreign import read_weights
from medgen.errors import DataError, UsageError
from medgen.evaluation.inputs import Inputs, slice_names
from medgen.evaluation.pairing import UNNAMED, Pairing
from medgen.evaluation.reconstruction.declaration import ReconstructionOptions
from medgen.evaluation.reconstruction.pair_scores import WITHOUT_SSIM, PairScores, Place
from medgen.evaluation.reconstruction.pairs import pairs_of
from medgen.evaluation.section import Distribution, Gallery, Score, Section, Table, number
from medgen.nets.perception.lpips import LPIPS
from medgen.reporting import Advance, unseen

BATCH = 32
BETTER: dict[str, Literal["higher", "lower"]] = {
    "psnr": "higher",
    "ssim": "higher",
    "ms_ssim": "higher",
    "mse": "lower",
    "mae_physical": "lower",
    "lpips": "lower",
}

FOREGROUND_MASK = "mask"
TITLES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM ({scales} scales)",
    "lpips": "LPIPS ({lpips})",
    "mse": "MSE in [0, 1]",
    "mae": "MAE in [0, 1]",
    "mae_physical": "MAE ({unit})",
    "rmse_physical": "RMSE ({unit})",
}


def measure(inputs: Inputs, options: ReconstructionOptions) -> Section:
    """Score the set against its reconstruction by the VAE, or else against the reference's cases of equal id."""
    stored = inputs.stored
    network = load_lpips(options)
    scores = PairScores(intensity_of(inputs.reference or stored, "the set"), network)
    truth = stored if inputs.vae is not None or inputs.reference is None else inputs.reference
    foreground = _foreground(truth, options)
    with inputs.progress(stored.slices, "slices") as advance:
        if inputs.vae is not None:
            pairing = compare_with_model(stored, inputs.vae.reconstruct, scores, advance, foreground)
        else:
            pairing = compare_sets(stored, truth, scores, advance, foreground, inputs.pairing)
    result = {**pairing, **scores.result(inputs.seed), "foreground": options.foreground}
    if inputs.vae is not None:
        result["vae_digest"] = inputs.vae.digest
    if network is not None:
        result["lpips_weights"] = {"backbone": network.backbone, "digest": network.digest}
    return Section(
        "reconstruction",
        "Reconstruction",
        result,
        [_table(result, network)],
        list(_warnings(result, options)),
        _distributions(scores, result),
        _galleries(scores),
        _per_sample(scores),
    )


def _table(result: dict[str, Any], network: LPIPS | None) -> Table:
    words = {
        "scales": result["ms_ssim_scales"],
        "unit": result["unit"],
        "lpips": network.backbone if network else "",
    }
    rows = [
        [
            title.format(**words),
            *(number(result[name][column]) for column in ("mean", "std", "median")),
            " to ".join(map(number, result[name]["interval"])) if result[name]["interval"] else "-",
        ]
        for name, title in TITLES.items()
        if result.get(name)
    ]
    where = f", foreground ({result['foreground']}) only" if result["foreground"] else ""
    columns = ("", "mean", "std", "median", "95 % interval of the mean")
    note = "Intervals by the bootstrap over cases. LPIPS is a distance: lower is better."
    return Table(f"reconstruction of {result['pairs']} slices{where}", columns, rows, note)


def _warnings(result: dict[str, Any], options: ReconstructionOptions) -> Iterator[str]:
    reasons = {
        "non_finite": "hold NaN or infinity",
        "constant": "have a reference of one value only",
        "without_foreground": "have no foreground",
    }
    for name, reason in reasons.items():
        if result[name]:
            yield f"{result[name]} of {result['pairs']} pairs {reason}; they are not in the means"
    if result.get("mse") and "ssim" not in result:
        yield WITHOUT_SSIM
    if result["at_margin"]:
        yield (
            f"{result['at_margin']} pairs have their foreground at the margin, where SSIM has no window; they are "
            "not in its mean"
        )
    if result["identical"]:
        yield f"{result['identical']} pairs are identical; their PSNR is infinite and not in the mean"
    if options.lpips and options.foreground:
        yield "LPIPS and MS-SSIM need whole images; they are left out with --foreground"
    if 0 < result["ms_ssim_scales"] < 5:
        yield f"MS-SSIM takes {result['ms_ssim_scales']} scales, as many as fit; five need sides of 161 pixels"


def _distributions(scores: PairScores, result: dict[str, Any]) -> list[Distribution]:
    shown = []
    for name in ("psnr", "ssim"):
        if result.get(name):
            values = scores.values(name)
            marks = {"mean": result[name]["mean"]}
            shown.append(
                Distribution(f"{TITLES[name]} of slices", TITLES[name], {"slices": values[np.isfinite(values)]}, marks)
            )
    return shown


def _galleries(scores: PairScores) -> list[Gallery]:
    rows = [pictures for _, _, pictures in scores.worst]
    return [Gallery("Worst pairs", rows, "The lowest SSIM first.")] if rows else []


def _per_sample(scores: PairScores) -> dict[str, Score]:
    told = {}
    for name, better in BETTER.items():
        if name in scores.measured:
            pairs = zip(scores.places, scores.values(name).tolist(), strict=True)
            values = {place.name: value for place, value in pairs if np.isfinite(value)}
            told[name] = Score(TITLES[name].partition(" ({")[0], better, values)
    return told


def load_lpips(options: ReconstructionOptions) -> LPIPS | None:
    """The network from the file that the options name; None if they name none."""
    if options.lpips is None:
        return None
    path = Path(options.lpips)
    return LPIPS.of_weights(read_weights(path), str(path))


Foreground = Callable[[Sequence[int], Array], Array]
"""From slice numbers of the truth and its images in [-1, 1] (B, C, H, W) to what counts, (B, 1, H, W) bool."""


def _foreground(truth: StoredSet, options: ReconstructionOptions) -> Foreground | None:
    """Pixels that the truth marks in its masks, or where it is above a physical value."""
    asked = options.foreground
    if asked is None:
        return None
    if asked == FOREGROUND_MASK:
        if not truth.has("mask"):
            raise DataError("--foreground mask: the set has no masks; preprocess it with --masks, or give a value")
        return lambda rows, images: np.asarray(truth.read("mask", rows).any(axis=1, keepdims=True))
    try:
        value = float(asked)
    except ValueError:
        raise UsageError(f"--foreground {asked}: expected a value in the unit of the images, or 'mask'") from None
    low, high = intensity_of(truth, "the set").window
    cut = 2 * (value - low) / (high - low) - 1
    return lambda rows, images: np.asarray((images > cut).any(axis=1, keepdims=True))


def compare_sets(
    stored: StoredSet,
    reference: StoredSet,
    scores: PairScores,
    advance: Advance = unseen,
    foreground: Foreground | None = None,
    pairing: Pairing = UNNAMED,
) -> dict[str, Any]:
    """Score the slices of the cases in both sets; DataError if there are none, or depths differ."""
    ours, theirs = intensity_of(stored, "the set"), intensity_of(reference, "the reference")
    if (ours.unit, ours.window) != (theirs.unit, theirs.window):
        raise DataError(
            f"the set has window {ours.window} {ours.unit} and the reference {theirs.window} {theirs.unit}; "
            "preprocess both with one window"
        )
    paired = pairs_of(stored, reference, pairing)
    if not paired:
        raise DataError(
            "no case of the set is in the reference: reconstruction compares cases of the same id, or as --pair-by says"
        )
    names = slice_names(stored)
    for case, (mine, other) in enumerate(paired):
        if mine.count != other.count:
            raise DataError(f"case {mine.id}: {mine.count} slices in the set, {other.count} in the reference")
        for start in range(0, mine.count, BATCH):
            depths = range(start, min(start + BATCH, mine.count))
            numbers = [other.start + depth for depth in depths]
            a = ours.normalized(stored.read("image", [mine.start + depth for depth in depths]))
            b = theirs.normalized(reference.read("image", numbers))
            if a.shape != b.shape:
                raise DataError(f"case {mine.id}: images of {_size(a)} in the set, of {_size(b)} in the reference")
            inside = None if foreground is None else torch.from_numpy(foreground(numbers, b))
            places = [Place(names[mine.start + depth], case) for depth in depths]
            scores.add(torch.from_numpy(a), torch.from_numpy(b), places, inside)
            advance(len(depths))
    unpaired = {"set": len(stored) - len(paired), "reference": len(reference) - len(paired)}
    return {"cases": len(paired), "unpaired_cases": unpaired}


def compare_with_model(
    stored: StoredSet,
    reconstruct: Callable[[Tensor], Tensor],
    scores: PairScores,
    advance: Advance = unseen,
    foreground: Foreground | None = None,
) -> dict[str, Any]:
    """Score what `reconstruct` (images in [-1, 1] to images) makes of each slice of a set, against the slice itself."""
    intensity = intensity_of(stored, "the set")
    cases = [case for case, row in enumerate(stored.cases) for _ in range(row.count)]
    places = [Place(name, case) for name, case in zip(slice_names(stored), cases, strict=True)]
    for start in range(0, stored.slices, BATCH):
        rows = range(start, min(start + BATCH, stored.slices))
        images = intensity.normalized(stored.read("image", rows))
        inside = None if foreground is None else torch.from_numpy(foreground(rows, images))
        truth = torch.from_numpy(images)
        scores.add(reconstruct(truth).cpu(), truth, places[rows.start : rows.stop], inside)
        advance(len(rows))
    return {"cases": len(stored)}


def intensity_of(stored: StoredSet, what: str) -> Intensity:
    """The intensity of an image set; DataError for a set of another kind."""
    if stored.header.kind != "image" or stored.header.intensity is None:
        raise DataError(f"{what} is of kind '{stored.header.kind}'; its metrics need images")
    return stored.header.intensity


def _size(images: Array) -> str:
    return " x ".join(map(str, images.shape[1:]))
