"""How experts rated a set: their means, how far they agree, and whether they tell real images from synthetic ones."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from medgen.evaluation.inputs import Inputs
from medgen.evaluation.intervals import mean_interval, share_interval
from medgen.evaluation.ratings.reliability import FEWEST, intraclass_correlation, weighted_kappa, with_interval
from medgen.evaluation.section import Section, Table, interval, number, percent
from medgen.imaging.labels.answers import Answers, match
from medgen.imaging.labels.ratings import REAL

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def measure(inputs: Inputs) -> Section:
    """Compare the raters of `inputs.ratings` aspect by aspect, in pairs and all together."""
    if inputs.ratings is None:
        raise ValueError("ratings needs ratings")
    sets = [inputs.whole or inputs.stored, *([] if inputs.reference is None else [inputs.reference])]
    matched = match(inputs.ratings, sets, "--ratings")
    real = np.array([not row.synthetic for stored in sets for row in stored.cases], bool)
    graded = {name: one for name, one in matched.aspects.items() if name != REAL}
    result: dict[str, Any] = {
        "content": inputs.ratings.digest(),
        "of_other_sets": matched.elsewhere,
        "aspects": {name: _aspect(one, inputs.seed) for name, one in graded.items()},
        "real_or_synthetic": _turing(matched.aspects[REAL], real, inputs.seed) if REAL in matched.aspects else None,
    }
    tables = [_agreement_table(result["aspects"])] if graded else []
    tables += [_real_table(result["real_or_synthetic"])] if result["real_or_synthetic"] else []
    return Section("ratings", "Ratings", result, tables, list(_warnings(inputs, result)))


def _aspect(answers: Answers, seed: int) -> dict[str, Any]:
    given = _by_rater(answers)
    compared = _comparisons_by_rater(answers)
    return {
        "raters": {name: _mean(answers, number, seed) for number, name in enumerate(answers.raters)},
        "pairs": [_agreement(one, other, given, seed) for one, other in combinations(sorted(given), 2)],
        "all_raters": _agreement_of_all(given, seed),
        "comparisons": [_comparing(one, other, compared, seed) for one, other in combinations(sorted(compared), 2)],
    }


def _by_rater(answers: Answers) -> dict[str, dict[int, float]]:
    """Each rater's ratings by case."""
    found: dict[str, dict[int, float]] = {}
    for rater, case, value in zip(answers.rater, answers.case, answers.value, strict=True):
        found.setdefault(answers.raters[rater], {})[int(case)] = float(value)
    return found


def _comparisons_by_rater(answers: Answers) -> dict[str, dict[tuple[int, int], float]]:
    """Each rater's preferences by the two cases."""
    found: dict[str, dict[tuple[int, int], float]] = {}
    rows = zip(answers.judge, answers.first, answers.second, answers.preference, strict=True)
    for rater, first, second, value in rows:
        found.setdefault(answers.raters[rater], {})[int(first), int(second)] = float(value)
    return found


def _mean(answers: Answers, rater: int, seed: int) -> dict[str, Any]:
    rows = answers.rater == rater
    values = answers.value[rows]
    mean = mean_interval(values, answers.case[rows], within=(1.0, 5.0), seed=seed) if len(values) else None
    always = float(values[0]) if len(values) >= FEWEST and np.ptp(values) == 0 else None
    compared = int((answers.judge == rater).sum())
    return {"ratings": len(values), "comparisons": compared, "mean": mean, "always": always}


def _agreement(one: str, other: str, given: dict[str, dict[int, float]], seed: int) -> dict[str, Any]:
    """Kappa and ICC of two raters, on the cases that both rated."""
    cases = np.array(sorted(given[one].keys() & given[other].keys()), np.int64)
    table = np.array([[given[name][case] for name in (one, other)] for case in cases], np.float64).reshape(-1, 2)
    return {
        "raters": [one, other],
        "cases": len(cases),
        "weighted_kappa": with_interval(weighted_kappa, table, cases, seed),
        "icc": with_interval(intraclass_correlation, table, cases, seed),
    }


def _agreement_of_all(given: dict[str, dict[int, float]], seed: int) -> dict[str, Any] | None:
    """ICC of all raters, on the cases that all of them rated; None unless there are several raters."""
    if len(given) < 2:
        return None
    names = sorted(given)
    cases = np.array(sorted(set.intersection(*(set(one) for one in given.values()))), np.int64)
    table = np.array([[given[name][case] for name in names] for case in cases], np.float64).reshape(-1, len(names))
    return {"cases": len(cases), "icc": with_interval(intraclass_correlation, table, cases, seed)}


def _comparing(one: str, other: str, given: dict[str, dict[tuple[int, int], float]], seed: int) -> dict[str, Any]:
    """Kappa of two raters on the pairs of cases that both compared; a tie is half way between."""
    pairs = sorted(given[one].keys() & given[other].keys())
    table = np.array([[given[name][pair] for name in (one, other)] for pair in pairs], np.float64).reshape(-1, 2)
    found = with_interval(weighted_kappa, table, np.arange(len(pairs)), seed)
    return {"raters": [one, other], "comparisons": len(pairs), "weighted_kappa": found}


def _turing(answers: Answers, real: npt.NDArray[np.bool_], seed: int) -> dict[str, Any]:
    """Shares of right answers to whether an image is real: of all raters together, of each, and their agreement."""
    given = _by_rater(answers)
    return {
        "all_raters": _right(answers, np.ones(len(answers.value), bool), real),
        "raters": {name: _right(answers, answers.rater == row, real) for row, name in enumerate(answers.raters)},
        "pairs": [_agreement(one, other, given, seed) for one, other in combinations(sorted(given), 2)],
    }


def _right(answers: Answers, rows: npt.NDArray[np.bool_], real: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The share of right answers, of all images and of real and synthetic ones; `real` (C,) is the truth."""
    cases, truth = answers.case[rows], real[answers.case[rows]]
    right = (answers.value[rows] > 0) == truth
    shares = {"accuracy": np.ones(len(cases), bool), "of_real": truth, "of_synthetic": ~truth}
    return {
        "real": int(truth.sum()),
        "synthetic": int((~truth).sum()),
        **{name: share_interval(right[which], cases[which]) for name, which in shares.items()},
    }


def _agreement_table(aspects: dict[str, Any]) -> Table:
    rows = []
    for name, found in aspects.items():
        for pair in found["pairs"]:
            told = [f"{name}: {' and '.join(pair['raters'])}", number(pair["cases"])]
            rows.append([*told, interval(pair["weighted_kappa"], 2), interval(pair["icc"], 2)])
        for pair in found["comparisons"]:
            told = [f"{name}, compared: {' and '.join(pair['raters'])}", number(pair["comparisons"])]
            rows.append([*told, interval(pair["weighted_kappa"], 2), "-"])
        if found["all_raters"] and len(found["pairs"]) > 1:
            rows.append(
                [f"{name}: all", number(found["all_raters"]["cases"]), "-", interval(found["all_raters"]["icc"], 2)]
            )
        for rater, one in found["raters"].items():
            if one["ratings"]:
                rows.append([f"{name}: mean of {rater}", number(one["ratings"]), interval(one["mean"], 3), "-"])
    note = "1 is perfect agreement, 0 is chance. Intervals are over cases."
    return Table("agreement of raters", ("", "cases", "weighted kappa (mean)", "ICC(2,1)"), rows, note)


def _real_table(found: dict[str, Any]) -> Table:
    columns = {"all raters": found["all_raters"], **found["raters"]}
    rows = [
        [
            name,
            f"{one['real']} + {one['synthetic']}",
            *(percent(one[key]) for key in ("accuracy", "of_real", "of_synthetic")),
        ]
        for name, one in columns.items()
        if one["real"] + one["synthetic"]
    ]
    titles = ("", "real + synthetic", "correct", "real ones", "synthetic ones")
    return Table("real or synthetic", titles, rows, "Half of both correct is chance: raters cannot tell them apart.")


def _warnings(inputs: Inputs, result: dict[str, Any]) -> list[str]:
    told = []
    if inputs.ratings is not None and inputs.ratings.half_line:
        told.append("the last line of --ratings is cut short, as a crash leaves it; it was left out")
    if inputs.ratings is not None and inputs.ratings.replaced:
        told.append(f"{inputs.ratings.replaced} ratings were given again by the same rater; the last ones count")
    told += [
        f"{name}: {rater} rated every image {one['always']:g}, which says nothing about agreement with others"
        for name, aspect in result["aspects"].items()
        for rater, one in aspect["raters"].items()
        if one["always"] is not None and len(aspect["raters"]) > 1
    ]
    if result["of_other_sets"]:
        told.append(
            f"{result['of_other_sets']} ratings are about other sets; if these hold the real images, give --reference"
        )
    if (found := result["real_or_synthetic"]) and not found["all_raters"]["real"]:
        told.append("no answers about real images are known, so nothing shows whether raters can tell them apart")
    return told
