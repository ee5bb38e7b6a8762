"""How far generated images lie from real ones in feature space, beside how far real ones lie from each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medgen.metrics.features import Extractor, Features
from medgen.metrics.frechet import fit, frechet_distance
from medgen.metrics.inputs import Inputs
from medgen.metrics.section import Section, Table, number

REPEATS = 5
"""Random splits of the reference, over which the floor is averaged."""


def lacking(inputs: Inputs) -> str:
    """What is missing, with the remedy; "" for nothing."""
    return "" if inputs.reference is not None else "needs real images: give --reference SET"


def measure(inputs: Inputs) -> Section:
    """The distance of the set to the reference, at its own size and at that of the floor."""
    stored, real, bank = inputs.stored, inputs.reference, inputs.bank
    if real is None:
        raise ValueError("fidelity needs a reference")
    with inputs.progress(stored.slices + real.slices, "slices") as advance:
        result = compare(bank.of(stored, advance), bank.of(real, advance), bank.extractor, inputs.options.seed)
    rows = [["all samples", number(result["frechet_distance"]), f"{result['samples']} / {result['reference_samples']}"]]
    for name, title in {"at_floor_size": "at the floor's size", "floor": "floor: real against real"}.items():
        if result[name]:
            rows.append([title, number(result[name]["mean"]), f"{result['floor_samples']} / {result['floor_samples']}"])
    extractor = bank.extractor
    table = Table(f"Frechet distance, features {extractor.name} {extractor.digest[:12]}", ("", "distance", "N"), rows)
    return Section("fidelity", "Fidelity", result, [table], result["warnings"])


def compare(generated: Features, reference: Features, extractor: Extractor, seed: int = 0) -> dict[str, Any]:
    """The Frechet distance of generated to reference, and what it would be between halves of the reference.

    The distance shrinks as samples grow in number, so that only distances at equal numbers compare: `floor` is
    real against real and `at_floor_size` generated against real, both with `floor_samples` a side.
    """
    n, m = len(generated.values), len(reference.values)
    whole = frechet_distance(fit(generated.values), fit(reference.values))
    random = np.random.default_rng(seed)
    floors, matched, size = [], [], 0
    for _ in range(REPEATS):
        left, right = halves(reference.cases, random)
        size = min(len(left), len(right), n)
        if size < 2:
            break
        left, right = random.permutation(left)[:size], random.permutation(right)[:size]
        drawn = random.permutation(n)[:size]
        half = fit(reference.values[torch.from_numpy(left)])
        floors.append(frechet_distance(half, fit(reference.values[torch.from_numpy(right)])))
        matched.append(frechet_distance(half, fit(generated.values[torch.from_numpy(drawn)])))
    return {
        "frechet_distance": whole,
        "samples": n,
        "reference_samples": m,
        "floor": _spread(floors),
        "at_floor_size": _spread(matched),
        "floor_samples": size if floors else 0,
        "extractor": {"name": extractor.name, "digest": extractor.digest, "features": generated.values.shape[1]},
        "left_out": {"samples": generated.skipped, "reference": reference.skipped},
        "warnings": list(_warnings(n, m, generated.values.shape[1], bool(floors))),
    }


def halves(
    cases: npt.NDArray[np.int64], random: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows in two parts of about equal size that share no case: slices of one patient resemble each other."""
    order = random.permutation(np.unique(cases))
    counts = np.array([(cases == case).sum() for case in order])
    first = order[: int(np.searchsorted(np.cumsum(counts), len(cases) / 2) + 1)]
    if len(first) == len(order):
        first = order[:-1]
    inside = np.isin(cases, first)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": float(np.mean(values)), "low": float(min(values)), "high": float(max(values))}


def _warnings(n: int, m: int, features: int, has_floor: bool) -> Iterable[str]:
    if min(n, m) <= features:
        yield (
            f"{min(n, m)} samples do not fill {features} features: the distance is biased upwards; "
            "compare at_floor_size with floor, not with distances of other sizes"
        )
    if not has_floor:
        yield "the reference has too few cases for a real-versus-real floor"
