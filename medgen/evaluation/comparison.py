"""Two sets compared sample by sample: where both have a score for the same case, the difference is tested.

The slices of one case resemble each other, so whole cases are exchanged and resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.artifacts.stored import StoredSet
from medgen.evaluation.intervals import ALIKE, mean_interval
from medgen.evaluation.results import Evaluated
from medgen.evaluation.section import Distribution, Score, Table, interval, number

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

DRAWS = 10_000
"""Random exchanges, where there are too many to try all."""
EXACT = 13
"""Up to so many cases, all 2^N exchanges are tried."""
FEWEST = 6
"""Cases below which no test can reach p = 0.05 (2 / 2^5 = 0.06)."""


METHOD = (
    "Where two sets hold the same case, each score is compared case by case: the mean difference with the 95 % "
    "interval of a studentised bootstrap over cases, and the two-sided p of a sign-flip permutation test over "
    "cases, Holm-corrected over all tests of this page."
)


@dataclass(frozen=True)
class PairedTest:
    """One score of two sets on the samples that both have; `difference` is the second less the first."""

    metric: str
    score: str
    title: str
    better: str
    samples: int
    cases: int
    first: float
    second: float
    difference: dict[str, float] | None
    effect: float | None
    """Mean difference of the cases in units of its standard deviation (Cohen's d for pairs)."""
    wins: float
    """Share of samples that are better in the second set; ties count half."""
    p: float | None
    p_holm: float | None = None
    """After Holm's correction over all tests of the evaluation."""


@dataclass(frozen=True)
class Pair:
    """Two sets, what their samples with equal ids have in common, and the tests."""

    first: str
    second: str
    shared_cases: int
    same_seed: bool | None
    """Whether both were generated from one seed; None if that is not known."""
    same_conditions: bool | None
    """Whether their vectors agree; None without vectors."""
    tests: list[PairedTest]
    note: str = ""
    """Why there is no test, or what the tests are based on."""


def compare(evaluated: Sequence[Evaluated], seed: int = 0) -> list[Pair]:
    """Every pair of the sets, in order; p-values are corrected over all pairs."""
    pairs = [compare_two(first, second, seed) for first, second in combinations(evaluated, 2)]
    corrected = iter(holm([test.p for pair in pairs for test in pair.tests]))
    return [replace(pair, tests=[replace(test, p_holm=next(corrected)) for test in pair.tests]) for pair in pairs]


def compare_two(first: Evaluated, second: Evaluated, seed: int = 0) -> Pair:
    """The paired tests of two sets on every score that both have."""
    a, b = first.inputs.stored, second.inputs.stored
    shared = {row.id for row in a.cases} & {row.id for row in b.cases}
    same_seed, same_conditions = _same_seed(a, b), _same_conditions(a, b, shared)
    tests: list[PairedTest] = []
    if not shared:
        note = "no case is in both: nothing can be compared sample by sample"
    elif same_conditions is False:
        note = "samples with the same id were asked for different things: nothing can be compared sample by sample"
    else:
        for one in first.sections:
            for other in (section for section in second.sections if section.name == one.name):
                for name in (name for name in one.scores if name in other.scores):
                    test = paired_test(one.name, name, one.scores[name], other.scores[name], seed)
                    tests += [test] if test is not None else []
        note = "" if tests else "none of the metrics gives a score per sample"
    return Pair(first.name, second.name, len(shared), same_seed, same_conditions, tests, note)


def paired_test(metric: str, name: str, first: Score, second: Score, seed: int = 0) -> PairedTest | None:
    """The difference of two scores over the samples that both have; None if there are none."""
    shared = [key for key in first.values if key in second.values]
    pairs = np.array([(first.values[key], second.values[key]) for key in shared], np.float64).reshape(-1, 2)
    kept = np.asarray(np.isfinite(pairs).all(axis=1))
    pairs = pairs[kept]
    if not len(pairs):
        return None
    names = [case_of(key) for key, keep in zip(shared, kept, strict=True) if keep]
    cases = np.unique(names, return_inverse=True)[1].astype(np.int64)
    differences = pairs[:, 1] - pairs[:, 0]
    gain = differences if first.better == "higher" else -differences
    return PairedTest(
        metric=metric,
        score=name,
        title=first.title,
        better=first.better,
        samples=len(pairs),
        cases=len(np.unique(cases)),
        first=float(pairs[:, 0].mean()),
        second=float(pairs[:, 1].mean()),
        difference=mean_interval(differences, cases, seed=seed),
        effect=effect_size(differences, cases),
        wins=float((gain > 0).mean() + (gain == 0).mean() / 2),
        p=sign_flip(differences, cases, seed=seed),
    )


def case_of(key: str) -> str:
    """The case of a score's key, `id` or `id/slice`."""
    case, separator, slice_ = key.rpartition("/")
    return case if separator and slice_.isdigit() else key


def sign_flip(differences: Values, cases: Rows, *, seed: int = 0, draws: int = DRAWS) -> float | None:
    """Two-sided p-value of the mean difference, under random exchange of the two sets case by case.

    For few cases all exchanges are tried; for many, `draws` random ones and the observed one (Phipson and Smyth 2010).
    None for too few cases to show anything.
    """
    sums = np.bincount(np.unique(cases, return_inverse=True)[1], differences)
    count = len(sums)
    if count < FEWEST:
        return None
    observed = abs(sums.sum()) * (1 - 1e-12)  # equal sums must not differ by rounding
    if count <= EXACT:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float((np.abs(signs @ sums) >= observed).mean())
    random = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, draws, 1000):
        signs = 1 - 2 * random.integers(0, 2, (min(1000, draws - start), count))
        extreme += int((np.abs(signs @ sums) >= observed).sum())
    return (extreme + 1) / (draws + 1)


def effect_size(differences: Values, cases: Rows) -> float | None:
    """The cases' mean differences: their mean over their standard deviation; None where they do not vary."""
    place = np.unique(cases, return_inverse=True)[1]
    means = np.bincount(place, differences) / np.bincount(place)
    mean = float(means.mean())
    if len(means) < 2 or (spread := float(means.std(ddof=1))) <= ALIKE * abs(mean):
        return None
    return mean / spread


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number (Holm 1979); None stays None and does not count."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[place] = largest
    return corrected


def differences(pair: Pair, first: Evaluated, second: Evaluated) -> list[Distribution]:
    """The distribution over samples of the differences of each tested score."""
    scores = [{section.name: section.scores for section in one.sections} for one in (first, second)]
    shown = []
    for test in pair.tests:
        a, b = (one[test.metric][test.score].values for one in scores)
        values = np.array([b[key] - a[key] for key in a if key in b], np.float64)
        label = f"{pair.second} less {pair.first}"
        shown.append(Distribution(test.title, label, {"difference": values}, {"no difference": 0.0}))
    return shown


def as_json(pairs: Sequence[Pair]) -> dict[str, Any]:
    """JSON values of all pairs."""
    return {
        "method": METHOD,
        "pairs": [asdict(pair) for pair in pairs],
    }


def table_of(pair: Pair) -> Table:
    """The tests of one pair, for people."""
    columns = ("", pair.first, pair.second, "difference (95 %)", "effect\u00a0d", "better", "p", "p\u00a0(Holm)", "n")
    rows = []
    for test in pair.tests:
        rows.append(
            [
                test.title,
                number(test.first),
                number(test.second),
                interval(test.difference, 3),
                number(test.effect, 2),
                f"{100 * test.wins:.0f} %",
                _p(test.p),
                _p(test.p_holm),
                str(test.samples) if test.samples == test.cases else f"{test.samples} in {test.cases} cases",
            ]
        )
    return Table(f"sample by sample: {pair.second} against {pair.first}", columns, rows, basis(pair))


def basis(pair: Pair) -> str:
    """One sentence on what the samples of a pair share."""
    if pair.note:
        return f"{pair.first} and {pair.second}: {pair.note}."
    seed = {True: "the same seed", False: "different seeds", None: "unknown seeds"}[pair.same_seed]
    asked = {True: " and the same conditions", False: "", None: ""}[pair.same_conditions]
    return (
        f"{pair.shared_cases} cases are in both, with {seed}{asked}. Difference: {pair.second} less {pair.first}; "
        f"better: share of samples for which {pair.second} is better."
    )


def _p(value: float | None) -> str:
    return "-" if value is None else "<\u00a00.001" if value < 0.001 else f"{value:.3f}"


def _same_seed(a: StoredSet, b: StoredSet) -> bool | None:
    steps = [one.provenance.steps[-1] for one in (a, b)]
    if any(step.command != "generate" for step in steps):
        return None
    return steps[0].seed == steps[1].seed


def _same_conditions(a: StoredSet, b: StoredSet, shared: set[str]) -> bool | None:
    if not (a.has("vector") and b.has("vector") and shared):
        return None
    if a.header.vector_fields != b.header.vector_fields:
        return False
    one, other = _vectors(a, shared), _vectors(b, shared)
    return all(np.array_equal(one[name], other[name]) for name in shared)


def _vectors(stored: StoredSet, wanted: set[str]) -> dict[str, npt.NDArray[np.float32]]:
    column = stored.column("vector")
    return {row.id: column[row.start : row.start + row.count] for row in stored.cases if row.id in wanted}
