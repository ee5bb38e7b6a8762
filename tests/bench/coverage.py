"""How often the intervals that medgen prints hold the truth: `python -m tests.bench.coverage [WORD] [--runs N]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medgen.evaluation.anomaly.tally import Tally
from medgen.evaluation.conditioning.probe import agreement
from medgen.evaluation.features.features import Extractor, Features
from medgen.evaluation.fidelity.declaration import FidelityOptions
from medgen.evaluation.fidelity.figures import NEIGHBOURHOOD, compare
from medgen.evaluation.intervals import mean_interval, share_interval

Random = np.random.Generator
Values = npt.NDArray[np.float64]
Intervals = dict[str, Any]
"""By the name of the figure: {value, low, high}, or None."""


@dataclass(frozen=True)
class Scenario:
    """Data of known origin, and the intervals of one draw of it."""

    name: str
    trial: Callable[[Random], Intervals]
    truth: Mapping[str, float] = field(default_factory=dict)
    """Of figures that are not here the mean over the runs is the truth: most depend on how many images there are."""


@dataclass(frozen=True)
class Held:
    """What came of the intervals of one figure."""

    scenario: str
    figure: str
    truth: float
    share: float
    """Of the runs with an interval, those whose interval holds the truth."""
    width: float
    """Median."""
    runs: int


def coverage(scenario: Scenario, runs: int, seed: int = 0) -> list[Held]:
    """Draw `runs` times and count."""
    trials = [scenario.trial(np.random.default_rng([seed, run])) for run in range(runs)]
    held = []
    for figure in trials[0]:
        found = [trial[figure] for trial in trials if trial[figure] is not None and trial[figure]["low"] is not None]
        truth = scenario.truth.get(figure, float(np.mean([one["value"] for one in found])))
        inside = [one["low"] <= truth + 1e-12 and truth - 1e-12 <= one["high"] for one in found]
        width = float(np.median([one["high"] - one["low"] for one in found]))
        held.append(Held(scenario.name, figure, truth, float(np.mean(inside)), width, len(found)))
    return held


def means(cases: int, skewed: bool) -> Callable[[Random], Intervals]:
    """Scores of 1 to 5 slices a case, the cases' own level normal or exponential."""

    def trial(random: Random) -> Intervals:
        sizes = random.integers(1, 6, cases)
        level = random.exponential(1.0, cases) if skewed else random.normal(1.0, 1.0, cases)
        values = np.repeat(level, sizes) + random.normal(0.0, 0.5, sizes.sum())
        return {"mean": mean_interval(values, np.repeat(np.arange(cases), sizes))}

    return trial


def shares(cases: int, rate: float, alike: float, slices: int) -> Callable[[Random], Intervals]:
    """Hits of 1 to 2 * slices - 1 slices a case, whose correlation within a case is `alike` (beta-binomial)."""

    def trial(random: Random) -> Intervals:
        sizes = random.integers(1, 2 * slices, cases)
        spread = (1 - alike) / max(alike, 1e-9)
        rates = random.beta(rate * spread, (1 - rate) * spread, cases) if alike else np.full(cases, rate)
        hits = random.random(sizes.sum()) < np.repeat(rates, sizes)
        return {"share": share_interval(hits, np.repeat(np.arange(cases), sizes))}

    return trial


def agreements(cases: int, correlation: float) -> Callable[[Random], Intervals]:
    """Ratings of normal distribution, two slices a case, against what was asked."""

    def trial(random: Random) -> Intervals:
        asked = random.normal(size=cases)
        measured = correlation * asked + np.sqrt(1 - correlation**2) * random.normal(size=cases)
        found = agreement(np.repeat(measured, 2), np.repeat(asked, 2), np.repeat(np.arange(cases), 2))
        return {name: found[name] for name in ("pearson", "spearman")}

    return trial


def detection(ill: int, normal: int, strength: float) -> Callable[[Random], Intervals]:
    """Noisy maps with a box of lesion that is `strength` higher; the lesions of 16 x 16 pixels differ in contrast."""

    def trial(random: Random) -> Intervals:
        tally = Tally(0.05, 0.1, "normal")
        tally.fit(_maps(random, np.zeros((60, 16, 16), bool), strength))
        masks = np.zeros((ill + normal, 16, 16), bool)
        for mask in masks[:ill]:
            y, x, side = (int(one) for one in (*random.integers(0, 10, 2), random.integers(3, 7)))
            mask[y : y + side, x : x + side] = True
        for case, (image, mask) in enumerate(zip(_maps(random, masks, strength), masks, strict=True)):
            score = float(np.partition(image.reshape(-1), -8)[-8:].mean())
            tally.test(case, "ill" if mask.any() else "normal", score, image, mask)
        found = tally.result(["ill"], seed=int(random.integers(1 << 31)))
        return {name: value for name, value in found.items() if isinstance(value, dict) or value is None}

    return trial


def _maps(random: Random, masks: npt.NDArray[np.bool_], strength: float) -> npt.NDArray[np.float32]:
    contrast = strength * random.uniform(0.3, 1.7, (len(masks), 1, 1))
    noise = random.gamma(2.0, 1.0, masks.shape) * random.lognormal(0.0, 0.2, (len(masks), 1, 1))
    return (noise + contrast * masks).astype(np.float32)


def fidelity(
    samples: int, real: int, shift: float, spread: float = 1.0, slices: int = 1
) -> Callable[[Random], Intervals]:
    """Normal features of 8 dimensions, the samples moved and narrowed; slices of a case are alike."""
    inception = Extractor("inception-v3", "0" * 64, lambda x: x.flatten(1), lambda x: (2 * x).softmax(1))

    def drawn(random: Random, cases: int, shift: float, spread: float) -> Features:
        level = np.repeat(random.normal(0.0, 1.0, (cases, 8)), slices, axis=0)
        values = level if slices == 1 else 0.8 * level + 0.6 * random.normal(0.0, 1.0, level.shape)
        values = values * np.linspace(1.0, 0.3, 8) * spread + shift
        numbers = np.arange(cases * slices)
        return Features(torch.from_numpy(values.astype(np.float32)), numbers // slices, numbers)

    def trial(random: Random) -> Intervals:
        ours, theirs = drawn(random, samples, shift, spread), drawn(random, real, 0.0, 1.0)
        found = compare(ours, theirs, inception, FidelityOptions(subsets=10), int(random.integers(1 << 31))).result
        return {name: found[name] for name in ("fid", "kid", *NEIGHBOURHOOD, "inception_score")}

    return trial


def scenarios() -> Iterator[Scenario]:
    """All of them; sizes are those of small and of usual evaluations."""
    for cases in (3, 8, 20, 60):
        yield Scenario(f"mean, {cases} cases of 1 to 5 slices", means(cases, skewed=False), {"mean": 1.0})
        yield Scenario(f"mean, skewed, {cases} cases of 1 to 5 slices", means(cases, skewed=True), {"mean": 1.0})
    for rate in (0.5, 0.9, 0.98):
        for cases in (10, 40):
            what = f"share of {rate:g}, {cases} cases"
            yield Scenario(f"{what} of one slice", shares(cases, rate, 0.0, 1), {"share": rate})
            yield Scenario(f"{what} of 1 to 11 slices", shares(cases, rate, 0.3, 6), {"share": rate})
    for cases in (10, 40):
        for correlation in (0.0, 0.7):
            truth = {"pearson": correlation, "spearman": 6 / np.pi * np.arcsin(correlation / 2)}
            yield Scenario(f"correlation, {cases} cases of two slices", agreements(cases, correlation), truth)
    for ill, normal, strength in ((8, 8, 2.0), (16, 16, 2.0), (12, 60, 1.0)):
        what = f"anomaly, {ill} ill and {normal} normal, lesions +{strength:g}"
        yield Scenario(what, detection(ill, normal, strength))
    for samples, real in ((30, 30), (100, 100), (60, 300)):
        for shift, spread in ((0.0, 1.0), (0.3, 1.0), (0.5, 0.7)):
            what = f"fidelity, {samples} samples and {real} real, moved by {shift:g}, spread {spread:g}"
            yield Scenario(what, fidelity(samples, real, shift, spread))
    yield Scenario("fidelity, 40 and 40 cases of 4 slices, moved by 0.3", fidelity(40, 40, 0.3, slices=4))


def rendered(found: list[Held]) -> str:
    """A Markdown table."""
    lines = ["| data | figure | truth | intervals that hold it | median width |", "|---|---|---|---|---|"]
    before = ""
    for one in found:
        name = "" if one.scenario == before else one.scenario
        lines.append(f"| {name} | {one.figure} | {one.truth:.3g} | {100 * one.share:.1f} % | {one.width:.3g} |")
        before = one.scenario
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table; what is under way is told on standard error."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.coverage", description=__doc__)
    parser.add_argument("word", nargs="?", default="", help="only scenarios whose name contains it")
    parser.add_argument("--runs", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for scenario in scenarios():
        if arguments.word in scenario.name:
            found += coverage(scenario, arguments.runs)
            sys.stderr.write(f"{scenario.name}: {100 * min(one.share for one in found):.1f} % at least so far\n")
    error = 100 * 1.96 * np.sqrt(0.95 * 0.05 / arguments.runs)
    sys.stdout.write(f"{arguments.runs} runs each: 95 % are seen as 95 +- {error:.1f} %.\n\n{rendered(found)}")


if __name__ == "__main__":
    main()
