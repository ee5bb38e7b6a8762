"""Does each image obey its mask: what a segmenter trained on real pairs finds in it, compared with real images.

The segmenter makes errors too. So every result is reported with two others: its score on held-out real pairs, and
chance, its score against the masks of other samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.evaluation.features.features import key_of
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.intervals import around, redraw
from medgen.evaluation.masks.declaration import MasksOptions
from medgen.evaluation.masks.diversity import diversity, mask_groups
from medgen.evaluation.pictures import label_picture, picture
from medgen.evaluation.section import Distribution, Gallery, Panel, Score, Section, Table, interval, number, percent
from medgen.evaluation.segmentation.options import SegmenterOptions
from medgen.evaluation.segmentation.overlap import (
    MEASURES,
    OVERALL,
    Agreement,
    agreement,
    agreement_of,
    pixels_of,
    summary,
)
from medgen.evaluation.segmentation.pairs import Pairs, read_pairs
from medgen.evaluation.segmentation.real_pairs import Real, check_alike, real_pairs
from medgen.evaluation.segmentation.segmenting import segment, train
from medgen.nets.segmenter import Segmenter

Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.uint8]

WORKS = 0.3
"""Dice on real pairs below which a segmenter says little of samples."""
FEW = 10
"""Cases to learn from, or to try on, below which the comparison with real pairs is rough."""


def measure(inputs: Inputs, options: MasksOptions) -> Section:
    """Train the segmenter on real pairs, and compare its masks of samples and held-out real pairs with their own."""
    real = real_pairs(inputs)
    if real is None:
        raise ValueError("masks needs real pairs")
    names, seed, side = check_alike(inputs.stored, real), inputs.seed, options.segmenter.side
    every = np.arange(inputs.stored.slices)
    with inputs.progress(len(every) + len(real.held_out), "pairs") as advance:
        samples = read_pairs(inputs.stored, every, side, advance)
        held_out = read_pairs(real.reference, real.held_out, side, advance)
    segmenter = inputs.bank.once(
        ("segmenter", key_of(real.training), options.segmenter, seed),
        lambda: _learn(inputs, real, options.segmenter.suited_to(names), len(names)),
    )
    found, known = segment(segmenter, samples.images), segment(segmenter, held_out.images)
    groups = mask_groups(inputs.stored, samples.slices)
    in_mm = samples.spacing is not None and held_out.spacing is not None
    ours = agreement_of(found, samples, len(names), in_mm=in_mm)
    theirs = agreement_of(known, held_out, len(names), in_mm=in_mm)
    mine, other = partners(groups, np.random.default_rng(seed))
    pixels = pixels_of(samples, in_mm=in_mm)[mine]
    chance = agreement(found[mine], samples.labels.numpy()[other], len(names), pixels, samples.cases[mine])
    result: dict[str, Any] = {
        "classes": list(names[1:]),
        "learned_from": {"pairs": real.training.slices, "cases": len(real.training)},
        "boundary_unit": "mm" if in_mm else "pixels",
        "seen_at": list(samples.images.shape[-2:]),
        "samples": summary(ours, names, seed),
        "real": summary(theirs, names, seed),
        "chance": summary(chance, names, seed) if len(mine) else None,
        "ratio_to_real": {
            OVERALL: ratio(ours, theirs, None, seed),
            **{name: ratio(ours, theirs, place, seed) for place, name in enumerate(names[1:])},
        },
    }
    result["left_out"] = {"samples": len(every) - len(samples), "real": len(real.held_out) - len(held_out)}
    result["diversity"] = _diversity(inputs, real, seed)
    galleries = [
        one
        for one in (
            _gallery("Masks obeyed worst", samples, found, ours, names, options.shown),
            _gallery("Real pairs, held out, segmented worst", held_out, known, theirs, names, options.shown),
        )
        if one.rows
    ]
    return Section(
        "masks",
        "Masks",
        result,
        [_table(result), *_class_tables(result), _diversity_table(result["diversity"])],
        list(_warnings(result)),
        [_distribution(ours, theirs, chance)],
        galleries,
        {"dice": Score("Dice of mask and segmented sample", "higher", _per_sample(ours, samples))},
    )


def _learn(inputs: Inputs, real: Real, options: SegmenterOptions, classes: int) -> Segmenter:
    with inputs.progress(real.training.slices, "real pairs") as advance:
        pairs = read_pairs(real.training, np.arange(real.training.slices), options.side, advance)
    with inputs.progress(options.steps, "steps of the segmenter") as advance:
        return train(pairs, classes, options, seed=inputs.seed, device=inputs.device, advance=advance)


def partners(groups: Rows, random: np.random.Generator) -> tuple[Rows, Rows]:
    """Rows, and for each another row with a different group (its mask); only rows that have one."""
    order = np.lexsort((random.random(len(groups)), groups))
    other = np.roll(order, int(np.bincount(groups).max()))
    differs = groups[order] != groups[other]
    return order[differs], other[differs]


def ratio(ours: Agreement, theirs: Agreement, place: int | None, seed: int) -> dict[str, float | None] | None:
    """Mean Dice of samples over that of real pairs, both sides resampled by case; None where either has none."""
    drawn, means, cases = [], [], []
    for number_of_side, side in enumerate((ours, theirs)):
        dice = side.of("dice", place)
        known = np.isfinite(dice)
        if not known.any():
            return None
        values, owners = dice[known], side.cases[known]
        means.append(float(values.mean()))
        cases.append(len(np.unique(owners)))
        drawn.append(redraw(owners, lambda rows, v=values: float(v[rows].mean()), seed=2 * seed + number_of_side))  # type: ignore[misc]
    if means[1] <= 0:
        return None
    if min(map(len, drawn)) < 2:
        return {"value": means[0] / means[1], "low": None, "high": None}
    with np.errstate(divide="ignore", invalid="ignore"):
        return around(means[0] / means[1], drawn[0] / drawn[1], min(cases), least=0.0)


def _diversity(inputs: Inputs, real: Real, seed: int) -> dict[str, Any]:
    with inputs.progress(inputs.stored.slices + real.reference.slices, "slices described") as advance:
        samples, theirs = inputs.bank.of(inputs.stored, advance), inputs.bank.of(real.reference, advance)
    return {
        "extractor": {"name": inputs.bank.extractor.name, "digest": inputs.bank.extractor.digest},
        **diversity(samples, mask_groups(inputs.stored, samples.slices), theirs, seed),
    }


def _table(result: dict[str, Any]) -> Table:
    return table_of(result, OVERALL, lambda side: side[OVERALL], "masks found by a segmenter trained on real pairs")


def _class_tables(result: dict[str, Any]) -> Iterator[Table]:
    if len(result["classes"]) > 1:
        for name in result["classes"]:
            yield table_of(result, name, lambda side, name=name: side["classes"][name], f"masks found: {name}")


def table_of(result: dict[str, Any], which: str, part: Any, title: str) -> Table:
    """Samples next to real pairs and chance, overall or for one class."""
    sides = [result["samples"], result["real"], result["chance"]]
    parts = [None if side is None else part(side) for side in sides]
    unit = result["boundary_unit"]
    titles = {"dice": "Dice", "iou": "IoU", "boundary_distance": f"distance of boundaries ({unit})"}

    def row(title: str, cell: Any) -> list[str]:
        return [title, *("-" if one is None else cell(one) for one in parts)]

    rows = [row(titles[name], lambda one, name=name: interval(one[name], 3)) for name in MEASURES]
    rows += [
        ["Dice, ratio to real", interval(result["ratio_to_real"][which], 3), "1", "-"],
        row("mask present, nothing found", lambda one: f"{one['missed']} of {one['positives']}"),
        row("no mask, something found", lambda one: percent(one["false_positive_rate"])),
    ]
    learned = result["learned_from"]
    note = (
        f"The segmenter learned from {learned['pairs']} real pairs of {learned['cases']} cases, and sees images at "
        f"{result['seen_at'][1]} x {result['seen_at'][0]} pixels. Dice and IoU are means over images whose mask is "
        "not empty; empty masks are counted separately. Shuffled: each sample against another sample's mask. Intervals "
        "are 95 %, by case; they do not show how much another training of the segmenter would differ."
    )
    return Table(title, ("", "samples", "real, held out", "samples, masks shuffled"), rows, note)


def _diversity_table(found: dict[str, Any]) -> Table:
    rows = [
        ["samples of one mask", interval(found["samples_of_one_mask"], 3), number(found["masks_with_several_samples"])],
        ["samples of different masks", interval(found["samples_of_different_masks"], 3), number(found["masks"])],
        ["real images of different cases", interval(found["real"], 3), "-"],
    ]
    note = f"Mean distance in features ({found['extractor']['name']}) to the other images."
    return Table("diversity", ("", "distance", "masks"), rows, note)


def _warnings(result: dict[str, Any]) -> Iterator[str]:
    dice, learned = result["real"][OVERALL]["dice"], result["learned_from"]
    if dice is None:
        yield "no held-out real pair has a mask that is not empty, so nothing shows how good the segmenter is"
    elif dice["value"] < WORKS:
        yield (
            f"the segmenter reaches a Dice of {dice['value']:.2f} on real pairs, too little to say much about samples; "
            "give more real pairs, or more steps (--set masks.segmenter.steps=2000)"
        )
    if learned["cases"] < FEW or result["real"]["images"] < FEW:
        yield (
            f"the segmenter learned from {learned['cases']} cases and was tested on {result['real']['images']} real "
            "images: few, so the comparison is rough"
        )
    for side, what in (("samples", "samples"), ("real", "real images")):
        if count := result["left_out"][side]:
            yield f"{count} {what} hold NaN or infinity; they were left out"
    if result["chance"] is None:
        yield "all samples have the same mask, so nothing shows what chance would reach"
    if not result["diversity"]["masks_with_several_samples"]:
        yield "no mask has several samples, so nothing shows how different images of one mask are"


def _distribution(ours: Agreement, theirs: Agreement, chance: Agreement) -> Distribution:
    series = {"samples": ours, "real, held out": theirs, "masks shuffled": chance}
    values = {name: side.overall("dice") for name, side in series.items()}
    return Distribution(
        "Dice of masks and found regions",
        "Dice",
        {name: dice[np.isfinite(dice)] for name, dice in values.items() if np.isfinite(dice).any()},
    )


def _gallery(title: str, pairs: Pairs, found: Labels, agreed: Agreement, names: Sequence[str], shown: int) -> Gallery:
    """The lowest Dice first, the median last."""
    dice = agreed.overall("dice")
    order = [int(row) for row in np.argsort(dice, kind="stable") if np.isfinite(dice[row])]
    rows = list(dict.fromkeys([*order[: max(shown - 1, 1)], *order[len(order) // 2 : len(order) // 2 + 1]]))[:shown]
    drawn = [_pictures(pairs, found, row, float(dice[row]), len(names)) for row in rows]
    return Gallery(title, drawn, "Mask, image, and what the segmenter finds; the lowest Dice first, the median last.")


def _pictures(pairs: Pairs, found: Labels, row: int, dice: float, classes: int) -> list[Panel]:
    return [
        label_picture(pairs.labels[row].numpy(), classes, "mask"),
        picture(pairs.images[row].numpy(), "image", black=-1, white=1),
        label_picture(found[row], classes, f"found, Dice {dice:.2f}"),
    ]


def _per_sample(agreed: Agreement, pairs: Pairs) -> dict[str, float]:
    dice = agreed.overall("dice").tolist()
    return {key: value for key, value in zip(pairs.keys, dice, strict=True) if np.isfinite(value)}
