"""How well interpolated slices match unseen thin ones, compared with linear and cubic interpolation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medgen.evaluation.inputs import Inputs
from medgen.evaluation.interpolation.declaration import InterpolationOptions
from medgen.evaluation.interpolation.thin_pairs import Flags, Trio, Trios, batches, find_trios
from medgen.evaluation.interpolation.thin_scores import KINDS, Measurement, SliceScores, SpreadCalibration
from medgen.evaluation.pictures import picture
from medgen.evaluation.reconstruction.pair_scores import WITHOUT_SSIM
from medgen.evaluation.section import Distribution, Gallery, Panel, Score, Section, Table, number

BATCH = 16
SHOWN = 4
"""Cases drawn in the coronal gallery."""
MANY_DISTANCES = 16
LABELS = {"set": "this set", "cubic": "cubic", "linear": "linear", "vae": "VAE of the truth", "truth": "the truth"}
BETTER: dict[str, Literal["higher", "lower"]] = {"psnr": "higher", "ssim": "higher", "mae": "lower"}
PLACES = {
    "between": "between thick slices",
    "measured": "at centres of thick slices",
    "beyond": "beyond the outermost centres",
}


@dataclass
class VolumeFindings:
    """What one pass over the cases collects."""

    scores: SliceScores
    measurement: Measurement
    calibration: SpreadCalibration = field(default_factory=SpreadCalibration)
    outside: int = 0
    resampled: int = 0
    coronal: list[list[Panel]] = field(default_factory=list)


def measure(inputs: Inputs, options: InterpolationOptions) -> Section:
    """Compare slices at equal positions in mm: the set, cubic and linear interpolation, and the VAE's ceiling."""
    if inputs.thick is None or inputs.reference is None:
        raise ValueError("interpolation needs thick slices and the thin truth")
    trios = find_trios(inputs.stored, inputs.thick, inputs.reference, inputs.pairing)
    findings = VolumeFindings(
        SliceScores(trios.cases[0].truth.intensity), Measurement(options.profile, options.thickness)
    )
    patients: dict[str, int] = {}
    with inputs.progress(sum(len(trio.numbers) for trio in trios.cases), "slices") as advance:
        for trio in trios.cases:
            patient = patients.setdefault(trio.truth.row.frame or trio.truth.row.id, len(patients))
            findings.measurement.add(trio)
            findings.outside += trio.truth.row.count - len(trio.numbers)
            findings.resampled += 0 if trio.aligned else len(trio.numbers)
            cuts: dict[str, list[Tensor]] = {}
            for rows in batches(trio, BATCH):
                images = _compare(trio, rows, inputs, findings, patient)
                for name, image in images.items():
                    cuts.setdefault(name, []).append(image[:, :1, image.shape[2] // 2].clone())
                advance(rows.stop - rows.start)
            if len(findings.coronal) < SHOWN:
                findings.coronal.append(_coronal(cuts, trio))
    result = _result(trios, findings, inputs)
    return Section(
        "interpolation",
        "Interpolation along z",
        result,
        list(_tables(result)),
        list(_warnings(result)),
        _distributions(findings.scores),
        [Gallery("Coronal cuts", findings.coronal, "Through the middle; head up.")],
        _per_slice(findings.scores),
    )


def _compare(trio: Trio, rows: slice, inputs: Inputs, findings: VolumeFindings, patient: int) -> dict[str, Tensor]:
    """Score some slices of a case; returns their images by method, and the truth, in physical values."""
    found = {name: source.at(matrix[rows]) for name, (source, matrix) in trio.matrices.items()}
    images = {name: image for name, (image, _) in found.items()}
    sound = np.logical_and.reduce([fine for _, fine in found.values()])
    shown = torch.eye(trio.truth.row.count, dtype=torch.float64)[trio.numbers[rows]]
    truth, fine = trio.truth.at(shown)
    if inputs.vae is not None:
        images["vae"] = _through(inputs, truth, trio)
    kept = findings.scores.add(truth, images, sound & fine, trio, rows, patient)
    if trio.aligned and trio.output.stored.has("spread"):
        spread, known = trio.output.at(trio.matrices["set"][1][rows], "spread")
        counted = torch.from_numpy(kept & known & (trio.kind[rows] == "between"))
        findings.calibration.add((images["set"] - truth)[counted], spread[counted])
    return {"truth": truth, **images}


def _through(inputs: Inputs, truth: Tensor, trio: Trio) -> Tensor:
    """The VAE's reconstruction of the truth."""
    low, high = trio.truth.intensity.window
    unit = ((truth - low) * (2 / (high - low)) - 1).clamp(-1, 1)
    left = inputs.vae.reconstruct(unit).cpu().float() if inputs.vae else unit
    return (left + 1) * (0.5 * (high - low)) + low


def _result(trios: Trios, findings: VolumeFindings, inputs: Inputs) -> dict[str, Any]:
    scores, seed = findings.scores, inputs.seed
    kinds = np.array(scores.kinds)
    result: dict[str, Any] = {
        "cases": len(trios.cases),
        "patients": len(set(scores.patients)),
        "unpaired_cases": {"without_thick": trios.without_thick, "without_truth": trios.without_truth},
        "uneven_truth": trios.flawed,
        "slices": len(scores.names),
        "non_finite": scores.non_finite,
        "constant": scores.constant,
        "outside": findings.outside,
        "resampled": findings.resampled,
        "unit": scores.intensity.unit,
        "window": list(scores.intensity.window),
    }
    for kind in KINDS:
        result[kind] = scores.summary(kinds == kind, seed) if (kinds == kind).any() else None
    result["by_distance"] = _by_distance(scores, seed)
    result["measurement"] = findings.measurement.result()
    result["calibration"] = findings.calibration.result()
    if inputs.vae is not None:
        result["vae_digest"] = inputs.vae.digest
    return result


def _by_distance(scores: SliceScores, seed: int) -> list[dict[str, Any]]:
    """The same by distance to the nearest thick centre in mm, if there are only a few such distances."""
    distances = np.array(scores.distances)
    inner = np.array(scores.kinds) != "beyond"
    steps = np.unique(distances[inner])
    if len(steps) > MANY_DISTANCES:
        return []
    return [{"distance_mm": float(step), **scores.summary(inner & (distances == step), seed)} for step in steps]


def _tables(result: dict[str, Any]) -> Iterator[Table]:
    unit = result["unit"]
    columns = ("", "PSNR (dB)", "SSIM", f"MAE ({unit})")
    for kind in KINDS:
        told = result[kind]
        if told is None:
            continue
        rows = [
            [label, *(_cell(told[method].get(score)) for score in BETTER)]
            for method, label in LABELS.items()
            if method in told
        ]
        rows.append(["this set - cubic", *(_cell(told["set_minus_cubic"].get(score)) for score in BETTER)])
        yield Table(
            f"{told['slices']} slices {PLACES[kind]}, {told['patients']} patients",
            columns,
            rows,
            "Means with 95 % intervals by the bootstrap over patients; the difference is taken slice by slice.",
        )
    measured = result["measurement"]
    rows = [
        [label, *(number(measured[name][column]) for column in ("mae", "rmse", "largest"))]
        for name, label in LABELS.items()
        if name in measured
    ]
    if rows:
        title = f"residual of the measurement, {measured['slices']} thick slices, {measured['profile']} profile"
        note = "Thin slices averaged over the thick ones' profile, against these."
        yield Table(title, ("", f"mean ({unit})", f"rms ({unit})", f"largest ({unit})"), rows, note)
    if (told := result["calibration"]) is not None:
        row = [number(told["rms_error"]), number(told["rms_spread"])]
        row += [f"{100 * told[name]:.0f} %" for name in ("within_one", "within_two")]
        row.append(number(told["correlation"]))
        head = (f"rms error ({unit})", f"rms spread ({unit})", "within 1 spread", "within 2", "correlation")
        note = "A calibrated spread equals the error: 68 % of normal errors lie within one spread, 95 % within two."
        yield Table("spread of the samples, between thick slices", ("", *head), [["this set", *row]], note)


def _cell(value: dict[str, float | None] | None) -> str:
    if value is None:
        return "-"
    ends = "" if value["low"] is None else f" ({number(value['low'])} to {number(value['high'])})"
    return number(value["value"]) + ends


def _warnings(result: dict[str, Any]) -> Iterator[str]:
    unpaired = result["unpaired_cases"]
    reasons = {
        "cases lack the thick input": unpaired["without_thick"],
        "cases lack the thin truth": unpaired["without_truth"],
        "cases have a truth with uneven spacing along z (gaps, tilt); they are left out": result["uneven_truth"],
        "slices hold NaN or infinity in some method; no mean includes them": result["non_finite"],
        "slices of the truth show one value only; no mean includes them": result["constant"],
        "slices of the truth lie outside the set and are not compared": result["outside"],
    }
    for reason, count in reasons.items():
        if count:
            yield f"{count} {reason}"
    if result["resampled"]:
        yield (
            f"{result['resampled']} slices of the truth lie between those of the set, which is resampled to them by a "
            "spline and loses sharpness; interpolate to the truth's spacing and extent"
        )
    if result["unit"] == "relative":
        yield "each case was scaled by its own percentiles, thick and thin apart; preprocess both with one --window"
    if any(result[kind] and "ssim" not in result[kind]["set"] for kind in KINDS):
        yield WITHOUT_SSIM
    if result["patients"] == 1:
        yield "only one patient: there are no intervals"


def _distributions(scores: SliceScores) -> list[Distribution]:
    if not scores.names:
        return []
    between = np.array(scores.kinds) == "between"
    series = {}
    for method in scores.methods:
        values = scores.values(method, "psnr")
        series[LABELS[method]] = values[between & np.isfinite(values)]
    title = "PSNR of slices between thick ones"
    return [Distribution(title, "PSNR (dB)", series)] if between.any() else []


def _per_slice(scores: SliceScores) -> dict[str, Score]:
    between = np.array(scores.kinds) == "between"
    told = {}
    for name in scores.scores:
        values = scores.values("set", name)
        kept: Flags = between & np.isfinite(values)
        pairs = {scores.names[index]: float(values[index]) for index in np.flatnonzero(kept)}
        title = {"psnr": "PSNR (dB)", "ssim": "SSIM", "mae": f"MAE ({scores.intensity.unit})"}[name]
        told[name] = Score(f"{title} between thick slices", BETTER[name], pairs)
    return told


def _coronal(cuts: dict[str, list[Tensor]], trio: Trio) -> list[Panel]:
    """Cuts (N, 1, W) through one case by each method, stretched to the same scale in both directions."""
    low, high = trio.truth.intensity.window
    _, _, pixel = trio.truth.row.spacing
    repeat = max(1, round(trio.truth.row.spacing[0] / pixel))
    up = trio.truth.row.direction[2] > 0
    pictures = []
    for name, parts in cuts.items():
        cut = torch.cat(parts)[:, 0]  # (N, W)
        cut = (cut.flip(0) if up else cut).repeat_interleave(repeat, dim=0)
        pictures.append(picture(cut[None], LABELS[name], black=low, white=high))
    return pictures
