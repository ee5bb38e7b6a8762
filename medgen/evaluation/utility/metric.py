"""Is the gain real: one segmenter trained on real pairs, with and without synthetic ones, tested on held-out pairs.

All arms have equal numbers of steps, the same initial weights and the same augmentation. The arm that mixes in copies
of the real pairs shows what a memorising generator would give: its gain is not due to new pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.errors import DataError
from medgen.evaluation.features.features import key_of
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.intervals import crossed_interval
from medgen.evaluation.memorization.declaration import MemorizationOptions
from medgen.evaluation.memorization.metric import measure as find_copies
from medgen.evaluation.pictures import label_picture, picture
from medgen.evaluation.section import Distribution, Gallery, Panel, Score, Section, Table, interval, percent
from medgen.evaluation.segmentation.overlap import Agreement, agreement_of
from medgen.evaluation.segmentation.pairs import Pairs, read_pairs
from medgen.evaluation.segmentation.real_pairs import Real, check_alike, real_pairs
from medgen.evaluation.segmentation.segmenting import segment, train
from medgen.evaluation.utility.arms import ARMS, COPIES, FIRST, MIXED, REAL, Pool, pool
from medgen.evaluation.utility.declaration import UtilityOptions

Values = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]

FEW = 10
"""Held-out cases below which an interval says little."""
SHOWN = 4


@dataclass(frozen=True)
class Arm:
    """What one arm's segmenters found in the held-out pairs."""

    agreed: tuple[Agreement, ...]
    """Scores of each seed."""
    found: Labels
    """(N, H, W) by the segmenter of the first seed."""

    def values(self, measure: str, place: int | None = None) -> Values:
        """(seeds, N) of one class, None: overall; NaN where it is not defined."""
        return np.stack([one.of(measure, place) for one in self.agreed])


def measure(inputs: Inputs, options: UtilityOptions) -> Section:
    """Train the segmenters of all arms, and compare them on the held-out real pairs."""
    real = real_pairs(inputs)
    if real is None:
        raise ValueError("utility needs real pairs")
    names, side, stored = check_alike(inputs.stored, real), options.segmenter.side, inputs.stored
    total = stored.slices + real.training.slices + len(real.held_out)
    with inputs.progress(total, "pairs") as advance:
        synthetic = read_pairs(stored, np.arange(stored.slices), side, advance)
        learned = read_pairs(real.training, np.arange(real.training.slices), side, advance)
        held_out = read_pairs(real.reference, real.held_out, side, advance)
    if synthetic.images.shape[1:] != learned.images.shape[1:]:
        raise DataError(
            f"the set has images of {_size(synthetic)} where the segmenter sees them, the training pairs of "
            f"{_size(learned)}; preprocess both with one --size"
        )
    if len(np.unique(held_out.cases[(held_out.labels > 0).flatten(1).any(dim=1).numpy()])) < 2:
        raise DataError("fewer than two held-out real cases have a mask that is not empty; hold out more that have one")
    arms = _arms(inputs, options, real, pool(learned, synthetic, inputs.seed), held_out, names)
    result = {
        "classes": list(names[1:]),
        "pairs": {"real": len(learned), "synthetic": len(synthetic), "held_out": len(held_out)},
        "left_out": total - len(learned) - len(synthetic) - len(held_out),
        "held_out_cases": len(np.unique(held_out.cases)),
        "steps": options.segmenter.steps,
        "seeds": options.seeds,
        "seen_at": list(learned.images.shape[-2:]),
        **compared(arms, None, held_out),
        "by_class": {name: compared(arms, place, held_out) for place, name in enumerate(names[1:])},
        "copies_among_synthetic": _copies(inputs, real),
    }
    galleries = [_held_out_gallery(arms, held_out, len(names)), _synthetic_gallery(synthetic, len(names), inputs.seed)]
    return Section(
        "utility",
        "Utility",
        result,
        list(_tables(result)),
        list(_warnings(result)),
        [_distribution(arms)],
        galleries,
        {"dice_mixed": Score("Dice on real pairs after mixed training", "higher", _per_image(arms[MIXED], held_out))},
    )


def _arms(
    inputs: Inputs, options: UtilityOptions, real: Real, pairs: Pool, held_out: Pairs, names: Sequence[str]
) -> dict[str, Arm]:
    settings, classes = options.segmenter.suited_to(names), len(names)

    def trained(arm: str) -> Arm:
        agreed, first = [], None
        draw = pairs.draw(arm, settings.steps, settings.batch_size)
        with inputs.progress(options.seeds * settings.steps, f"steps on {ARMS[arm]}") as advance:
            for seed in range(inputs.seed, inputs.seed + options.seeds):
                network = train(
                    pairs.pairs, classes, settings, seed=seed, device=inputs.device, draw=draw, advance=advance
                )
                found = segment(network, held_out.images)
                first = found if first is None else first
                agreed.append(agreement_of(found, held_out, classes, in_mm=held_out.spacing is not None))
        if first is None:
            raise ValueError("no seeds")
        return Arm(tuple(agreed), first)

    def once(arm: str, *more: int) -> Arm:
        """The arm, trained only for the first of several sets."""
        key = (arm, key_of(real.training), key_of(real.reference), options, inputs.seed, *more)
        return inputs.bank.once(key, lambda: trained(arm))

    return {
        MIXED: trained(MIXED),
        FIRST: trained(FIRST),
        COPIES: once(COPIES, pairs.synthetic),
        REAL: once(REAL),
    }


def compared(arms: Mapping[str, Arm], place: int | None, held_out: Pairs) -> dict[str, Any]:
    """Dice of each arm, and its gain over real pairs alone and over copies; of one class, None: overall."""
    dice = {name: arm.values("dice", place) for name, arm in arms.items()}
    positive = np.isfinite(dice[REAL]).all(axis=0)
    negative = np.isfinite(arms[REAL].values("false_positive", place)).all(axis=0)

    countable = len(np.unique(held_out.cases[positive])) > 1

    def gain(arm: str, against: str) -> dict[str, float] | None:
        return crossed_interval(dice[arm] - dice[against], held_out.cases, within=(-1, 1)) if countable else None

    return {
        "positives": int(positive.sum()),
        "negatives": int(negative.sum()),
        "arms": {
            name: {
                "dice": crossed_interval(dice[name], held_out.cases, within=(0, 1)) if countable else None,
                "dice_by_seed": dice[name][:, positive].mean(axis=1).tolist() if positive.any() else [],
                "gain": gain(name, REAL) if name != REAL else None,
                "gain_over_copies": gain(name, COPIES) if name in (MIXED, FIRST) else None,
                "false_positive_rate": (
                    float(arm.values("false_positive", place)[:, negative].mean()) if negative.any() else None
                ),
            }
            for name, arm in arms.items()
        },
    }


def _copies(inputs: Inputs, real: Real) -> dict[str, Any] | None:
    """The memorization check's result for the synthetic images; None where it could not learn its rule."""
    try:
        found = find_copies(replace(inputs, training=real.training, reference=real.reference), MemorizationOptions())
    except DataError:
        return None
    return {"share": found.result["copies"], "false_alarm_bound": found.result["rule"]["false_alarm_bound"]}


def _tables(result: dict[str, Any]) -> Iterator[Table]:
    pairs, copies = result["pairs"], result["copies_among_synthetic"]
    said = "the check for copies could not learn from these real images"
    if copies is not None:
        said = f"copies of training images among the synthetic ones: {percent(copies['share'])}"
    note = (
        f"{pairs['real']} real and {pairs['synthetic']} synthetic pairs to learn from, {pairs['held_out']} real pairs "
        f"of {result['held_out_cases']} cases held out; {result['seeds']} segmenters an arm, {result['steps']} steps "
        f"each, images at {result['seen_at'][1]} x {result['seen_at'][0]} pixels. Dice is the mean over held-out "
        "images whose mask is not empty. Gains are paired by seed and image; their 95 % intervals are over seeds and "
        f"cases. Memorization: {said}."
    )
    yield _table("utility: what a segmenter learns", result, note)
    if len(result["classes"]) > 1:
        for name in result["classes"]:
            yield _table(f"utility: {name}", result["by_class"][name], "")


def _table(title: str, found: dict[str, Any], note: str) -> Table:
    columns = ("learned from", "gain over real alone", "gain over copies", "Dice on real pairs", "false positives")
    rows = []
    for name, arm in found["arms"].items():
        rate = arm["false_positive_rate"]
        rows.append(
            [
                ARMS[name],
                interval(arm["gain"], 2),
                interval(arm["gain_over_copies"], 2),
                interval(arm["dice"], 3),
                "-" if rate is None else f"{100 * rate:.0f} % of {found['negatives']}",
            ]
        )
    return Table(title, columns, rows, note)


def _warnings(result: dict[str, Any]) -> Iterator[str]:
    if result["left_out"]:
        yield f"{result['left_out']} images hold NaN or infinity; they were left out"
    if result["held_out_cases"] < FEW:
        yield f"{result['held_out_cases']} held-out cases say little about others; hold out more"
    arms, copies = result["arms"], result["copies_among_synthetic"]
    if above_zero(arms[COPIES]["gain"]):
        yield "copies of the real pairs help too: training on the real pairs alone had not converged; give more steps"
    for name in (MIXED, FIRST):
        if above_zero(arms[name]["gain"]) and not above_zero(arms[name]["gain_over_copies"]):
            yield f"{ARMS[name]}: its gain is not clearly larger than that of copies, so it may not be due to new pairs"
    if copies is None:
        yield "whether the synthetic images are copies could not be checked on these real images"
    elif copies["share"]["count"]:
        yield (
            f"{copies['share']['count']} of the {result['pairs']['synthetic']} synthetic images are copies of training "
            "images, as --metrics memorization shows"
        )


def above_zero(gain: Mapping[str, float] | None) -> bool:
    """Whether a whole interval is above 0."""
    return gain is not None and gain["low"] > 0


def _distribution(arms: Mapping[str, Arm]) -> Distribution:
    means = {name: arm.values("dice").mean(axis=0) for name, arm in arms.items()}
    series = {ARMS[name]: values[np.isfinite(values)] for name, values in means.items()}
    return Distribution("Dice of held-out images, mean over seeds", "Dice", series)


def _per_image(arm: Arm, held_out: Pairs) -> dict[str, float]:
    means = arm.values("dice").mean(axis=0).tolist()
    return {key: value for key, value in zip(held_out.keys, means, strict=True) if np.isfinite(value)}


def _held_out_gallery(arms: Mapping[str, Arm], held_out: Pairs, classes: int) -> Gallery:
    """Where synthetic pairs changed the result most, for better and for worse."""
    gains = arms[MIXED].agreed[0].of("dice", None) - arms[REAL].agreed[0].of("dice", None)
    order = [int(row) for row in np.argsort(gains, kind="stable") if np.isfinite(gains[row])]
    half = max(SHOWN // 2, 1)
    rows = list(dict.fromkeys([*order[::-1][:half], *order[:half]]))
    drawn = []
    for row in rows:
        seen = [
            label_picture(arm.found[row], classes, f"{ARMS[name]}, Dice {arm.agreed[0].of('dice', None)[row]:.2f}")
            for name, arm in arms.items()
        ]
        drawn.append([*_pair(held_out, row, classes), *seen])
    return Gallery(
        "Held-out real pairs, and what the segmenters of the first seed find",
        drawn,
        "Where mixed training gained most first, then where it lost most.",
    )


def _synthetic_gallery(synthetic: Pairs, classes: int, seed: int) -> Gallery:
    rows = np.sort(np.random.default_rng(seed).permutation(len(synthetic))[:SHOWN])
    pictures = [one for row in rows for one in _pair(synthetic, int(row), classes)]
    return Gallery("Synthetic pairs", [pictures[at : at + 4] for at in range(0, len(pictures), 4)], "Drawn at random.")


def _pair(pairs: Pairs, row: int, classes: int) -> list[Panel]:
    return [
        label_picture(pairs.labels[row].numpy(), classes, "mask"),
        picture(pairs.images[row].numpy(), "image", black=-1, white=1),
    ]


def _size(pairs: Pairs) -> str:
    return f"{pairs.images.shape[3]} x {pairs.images.shape[2]}"
