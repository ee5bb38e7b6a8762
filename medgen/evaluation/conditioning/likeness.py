"""Whether what was found looks like a nodule: distance between patches around requested and around known nodules.

The rule finds a flat disc at the right place as easily as a nodule, or more so. Its patch gives it away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from medgen.evaluation.conditioning.patches import RINGS, NodulePatches
from medgen.evaluation.conditioning.scores import weights_of_like
from medgen.evaluation.features.features import Extractor, Features
from medgen.evaluation.fidelity.declaration import FidelityOptions
from medgen.evaluation.fidelity.figures import compare
from medgen.evaluation.section import Table, number

FEWEST = 20
"""Patches a side, and cases of the real ones, which are halved for the floor."""
FAR = 2.0
"""Distance of samples over that of real patches among themselves from which on it is warned of."""
DISTANCES = {"frechet_distance": "Frechet distance", "kernel_distance": "kernel distance"}
KEPT = ("value", "low", "high", "floor", "at_floor_size")
RING_MEANS = Extractor(f"mean and spread of {RINGS} rings", "", lambda patches: patches)


def compare_patches(samples: NodulePatches, known: NodulePatches, seed: int) -> dict[str, Any] | None:
    """Frechet and kernel distance of the samples' patches from known ones of the requested sizes; None for too few."""
    weights, _ = weights_of_like(known.sizes, known.cases, samples.sizes)
    real = known[np.flatnonzero(weights)]
    if len(samples.cases) < FEWEST or len(np.unique(real.cases)) < FEWEST:
        return None
    found = compare(_features(samples), _features(real), RING_MEANS, FidelityOptions(), seed).result
    counts = ("samples", "reference_samples", "reference_cases", "floor_samples")
    return {
        "features": RING_MEANS.name,
        **{name: found[name] for name in counts},
        **{name: {key: found[name][key] for key in KEPT} for name in DISTANCES},
    }


def times_as_far(result: dict[str, Any]) -> float | None:
    """The samples' Frechet distance over that between real patches, at equal numbers."""
    figure = result["frechet_distance"]
    return None if figure["floor"] is None else figure["at_floor_size"]["mean"] / figure["floor"]["mean"]


def table_of(result: dict[str, Any]) -> Table:
    """Both distances, of the samples and between real patches."""
    size, counts = result["floor_samples"], f"{result['samples']} / {result['reference_samples']}"
    rows = []
    for name, title in DISTANCES.items():
        figure = result[name]
        between = "-" if figure["low"] is None else f"{number(figure['low'])} to {number(figure['high'])}"
        parts = (number(figure[part]["mean"]) if figure[part] else "-" for part in ("at_floor_size", "floor"))
        rows.append([title, number(figure["value"]), between, *parts])
    columns = ("", f"all ({counts})", "95 %", f"samples ({size} / {size})", f"floor: real ({size} / {size})")
    note = (
        "Patches at the requested places against those of known nodules of similar size; only the last two columns, "
        "of equal number, are comparable. A hit that is not a nodule lies far away."
    )
    return Table("patches around nodules", columns, rows, note)


def _features(rated: NodulePatches) -> Features:
    return Features(torch.from_numpy(rated.rings), rated.cases, np.arange(len(rated.cases)))
