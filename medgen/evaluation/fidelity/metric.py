"""How far generated images lie from real ones in feature space, compared with real ones from each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from medgen.artifacts.stored import StoredSet
from medgen.evaluation.features.features import Extractor, Features
from medgen.evaluation.fidelity.declaration import FidelityOptions
from medgen.evaluation.fidelity.figures import NEIGHBOURHOOD, Comparison, compare, names_of
from medgen.evaluation.groups import groups
from medgen.evaluation.inputs import Inputs, slice_names
from medgen.evaluation.section import Distribution, Score, Section, Table, number
from medgen.models.text.prompts import distinct

TITLES = {
    "fid": "FID",
    "kid": "KID",
    "frechet_distance": "Frechet distance",
    "kernel_distance": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "inception_score": "Inception Score",
}
NOTE = (
    "Intervals are 95 %, by halves of the cases on both sides. The floor is one half of the real images against the "
    "other; only figures of equal number are comparable with it."
)


def measure(inputs: Inputs, options: FidelityOptions) -> Section:
    """The set against the reference, overall and in the groups that the options name."""
    stored, real, bank = inputs.stored, inputs.reference, inputs.bank
    extractor = bank.extractor
    if real is None:
        raise ValueError("fidelity needs a reference")
    fields = options.by or (("modality",) if _several(stored) and _several(real) else ())
    by = {field: groups(stored, real, field) for field in fields}  # before the long work, as it may fail
    with inputs.progress(stored.slices + real.slices, "slices") as advance:
        samples, others = bank.of(stored, advance), bank.of(real, advance)
    whole = compare(samples, others, extractor, options, inputs.seed)
    grouped: dict[str, dict[str, Any]] = {}
    for field, parts in by.items():
        grouped[field] = {}
        for group, (mine, theirs) in parts.items():
            ours, reals = _among(samples, mine), _among(others, theirs)
            result: dict[str, Any] = {"samples": len(ours), "reference_samples": len(reals)}
            if min(len(ours), len(reals)) >= 2:
                result = compare(ours, reals, extractor, options, inputs.seed).result
            grouped[field][group] = result
    width = int(samples.values.shape[1])
    result = {
        **whole.result,
        "neighbours": options.neighbours,
        "extractor": {"name": extractor.name, "digest": extractor.digest, "features": width},
        "left_out": {"samples": samples.skipped, "reference": others.skipped},
        "by": grouped,
    }
    result["warnings"] = list(_warnings(result, extractor))
    tables = [_table(result, extractor), *(_group_table(field, grouped[field], extractor) for field in grouped)]
    names = slice_names(stored)
    nearest = {names[row]: float(value) for row, value in zip(samples.slices, whole.nearest_real, strict=False)}
    scores = {"nearest_real": Score("distance to the nearest real image", "lower", nearest)} if nearest else {}
    return Section("fidelity", "Fidelity", result, tables, result["warnings"], _distributions(whole), scores=scores)


def _several(stored: StoredSet) -> bool:
    """Whether a set says of its images that they are of several modalities."""
    return stored.has("modality") and len(distinct(stored.texts("modality"))) > 1


def _among(features: Features, slices: np.ndarray[Any, np.dtype[np.int64]]) -> Features:
    return features[np.flatnonzero(np.isin(features.slices, slices))]


def _distributions(whole: Comparison) -> list[Distribution]:
    if len(whole.at_floor) < 2:
        return []
    return [Distribution("Distance to the nearest real image", "feature distance", whole.at_floor)]


def _table(result: dict[str, Any], extractor: Extractor) -> Table:
    size, sizes = result["floor_samples"], f"{result['samples']} / {result['reference_samples']}"
    columns = ("", f"all ({sizes})", "95 %", f"generated ({size} / {size})", f"floor: real ({size} / {size})")
    rows = []
    for name in (*names_of(extractor), *NEIGHBOURHOOD):
        figure = result[name]
        if figure is not None:
            parts = (figure["at_floor_size"], figure["floor"])
            rows.append([TITLES[name], number(figure["value"]), _between(figure), *map(_mean, parts)])
    if score := result.get("inception_score"):
        title = f"{TITLES['inception_score']} ({score['splits']} splits; of {score['equal_number']} at the right)"
        parts = (score["at_equal_number"], score["of_reference"])
        rows.append([title, number(score["value"]), _between(score), *map(number, parts)])
    return Table(f"fidelity, {_features(extractor)}", columns, rows, NOTE)


def _group_table(field: str, found: dict[str, Any], extractor: Extractor) -> Table:
    frechet, kernel = names_of(extractor)
    columns = ("", "N", TITLES[frechet], "95 %", "generated", "floor: real", "of N", TITLES[kernel], *NEIGHBOURHOOD)
    rows = []
    for group, result in found.items():
        row = [group, f"{result['samples']} / {result['reference_samples']}"]
        if frechet in result:
            figure = result[frechet]
            row += [number(figure["value"]), _between(figure), _mean(figure["at_floor_size"]), _mean(figure["floor"])]
            row += [str(result["floor_samples"]), number(result[kernel]["value"])]
            row += [number(result[name]["value"] if result[name] else None) for name in NEIGHBOURHOOD]
        rows.append(row + ["-"] * (len(columns) - len(row)))
    return Table(f"fidelity by {field}, {_features(extractor)}", columns, rows, NOTE)


def _features(extractor: Extractor) -> str:
    return f"features {extractor.name} {extractor.digest[:12]}"


def _between(figure: dict[str, Any]) -> str:
    return "-" if figure["low"] is None else f"{number(figure['low'])} to {number(figure['high'])}"


def _mean(spread: dict[str, float] | None) -> str:
    return number(spread["mean"] if spread else None)


def _warnings(result: dict[str, Any], extractor: Extractor) -> Iterator[str]:
    n, m, features = result["samples"], result["reference_samples"], result["extractor"]["features"]
    frechet = TITLES[names_of(extractor)[0]]
    if min(n, m) <= features:
        yield (
            f"{min(n, m)} images are too few for {features} features: the {frechet} is biased upwards; "
            "compare generated and real at the floor's size, not with figures of other sizes"
        )
    if not result["floor_samples"]:
        yield "the reference has too few cases for a real-versus-real floor"
    if result["precision"] is None:
        yield f"precision, recall, density and coverage need more than {result['neighbours']} images a side"
    for field, parts in result["by"].items():
        few = [group for group, part in parts.items() if names_of(extractor)[0] not in part]
        if few:
            yield f"by {field}: no figures for {', '.join(few)}, which one side shows in fewer than 2 images"
    left_out = sum(result["left_out"].values())
    if left_out:
        yield f"{left_out} images hold NaN or infinity; they were left out"
