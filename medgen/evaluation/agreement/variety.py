"""How alike the images of one text are: MS-SSIM of pairs (Odena et al. 2017), beside pairs of different texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medgen.evaluation.agreement.attributes import Rows
from medgen.evaluation.intervals import mean_interval
from medgen.evaluation.section import Table, interval
from medgen.nets.perception.similarity import MS_SSIM_WEIGHTS, ms_ssim, scales_that_fit

Read = Callable[[Sequence[int]], Tensor]
"""The images of these slices, (B, C, H, W) in [-1, 1]."""
Values = npt.NDArray[np.float64]
TEXTS = 64
"""Texts of which pairs are taken."""
PAIRS = 8
"""Pairs of each."""
BATCH = 32


def variety(texts: Sequence[str], read: Read, seed: int) -> dict[str, Any] | None:
    """Mean MS-SSIM of pairs of images of one text, and of pairs of images of different texts.

    None where no text has two images, or they are too small. Small images allow fewer scales, whose weights then sum
    to 1. Images that are not finite are left out.
    """
    random = np.random.default_rng([seed, 3])
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault(text, []).append(row)
    several = [np.array(rows) for text, rows in groups.items() if text and len(rows) > 1]
    scales = scales_that_fit(min(read([0]).shape[2:]))
    if not several or not scales:
        return None
    chosen = [several[place] for place in np.sort(random.permutation(len(several))[:TEXTS])]
    alike = [(number, pair) for number, rows in enumerate(chosen) for pair in _pairs(rows, random)]
    known = np.array([row for text, rows in groups.items() if text for row in rows])
    drawn = random.choice(known, (len(alike), 2)).tolist()
    others = [(first, second) for first, second in drawn if texts[first] != texts[second]]
    weights = np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])
    within = _similarity(read, [pair for _, pair in alike], weights.tolist())
    between = _similarity(read, others, weights.tolist())
    return {
        "within": _mean(within, np.array([number for number, _ in alike]), seed),
        "between": _mean(between, np.arange(len(others)), seed),
        "texts": len(chosen),
        "pairs": len(alike),
        "scales": scales,
    }


def variety_table(samples: dict[str, Any] | None, real: dict[str, Any] | None) -> Table:
    """Samples and real images side by side."""
    parts = {"samples": samples, "real": real}
    rows = [
        [name, interval(one["within"], 3), interval(one["between"], 3), str(one["texts"]), str(one["pairs"])]
        for name, one in parts.items()
        if one
    ]
    scales = next(one["scales"] for one in parts.values() if one)
    note = "1 is the same image, and lower values are more varied; the images of one text should vary as real ones do."
    if scales < len(MS_SSIM_WEIGHTS):
        note += f" The images are so small that only {scales} of {len(MS_SSIM_WEIGHTS)} scales fit."
    columns = ("", "one text", "different texts", "texts", "pairs")
    return Table("similarity of images to each other (MS-SSIM)", columns, rows, note)


def _pairs(rows: Rows, random: np.random.Generator) -> Iterator[tuple[int, int]]:
    """At most `PAIRS` pairs of some rows, at random."""
    every = list(combinations(random.permutation(rows)[: 2 * PAIRS].tolist(), 2))
    for place in random.permutation(len(every))[:PAIRS]:
        yield every[place]


@torch.inference_mode()
def _similarity(read: Read, pairs: Sequence[tuple[int, int]], weights: Sequence[float]) -> Values:
    """Of each pair; NaN where an image is not finite."""
    found: list[float] = []
    for start in range(0, len(pairs), BATCH):
        first, second = (read(rows) for rows in zip(*pairs[start : start + BATCH], strict=True))
        found += ms_ssim(first, second, 2.0, weights=weights).tolist()
    return np.array(found, np.float64)


def _mean(values: Values, groups: Rows, seed: int) -> dict[str, Any] | None:
    finite = np.isfinite(values)
    if not finite.any():
        return None
    found = mean_interval(values[finite], groups[finite], within=(0.0, 1.0), seed=seed)
    return dict(found) if found else {"value": float(values[finite].mean()), "low": None, "high": None}
