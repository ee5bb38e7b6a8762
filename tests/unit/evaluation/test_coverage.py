"""Intervals hold the truth about as often as they say; `python -m tests.bench.coverage` tells how often each does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.bench.coverage import Scenario, agreements, coverage, detection, fidelity, means, scenarios, shares


def check(scenario: Scenario, runs: int, least: float = 0.93) -> None:
    """Of intervals that hold the truth in a share `least` of runs, one of 10000 tries would give fewer hits."""
    fewest = stats.binom.ppf(1e-4, runs, least) / runs
    for one in coverage(scenario, runs):
        assert one.runs == runs, one
        assert one.share >= fewest, one


@pytest.mark.parametrize("cases", [3, 8, 30])
def test_means(cases: int) -> None:
    check(Scenario("mean", means(cases, skewed=False), {"mean": 1.0}), 200)


@pytest.mark.parametrize(("rate", "alike", "slices"), [(0.5, 0.3, 6), (0.9, 0.3, 6), (0.98, 0.3, 6), (0.9, 0.0, 1)])
def test_shares(rate: float, alike: float, slices: int) -> None:
    check(Scenario("share", shares(20, rate, alike, slices), {"share": rate}), 400)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_correlations(correlation: float) -> None:
    truth = {"pearson": correlation, "spearman": 6 / np.pi * np.arcsin(correlation / 2)}
    check(Scenario("correlation", agreements(12, correlation), truth), 25)


def test_figures_of_fidelity() -> None:
    """With one side redrawn, intervals of precision and recall hold 50 to 60 % here."""
    check(Scenario("fidelity", fidelity(50, 50, shift=0.8, spread=0.8)), 40)


def test_figures_of_anomaly_maps() -> None:
    """Percentiles of redrawn cases hold 16 to 80 % of such image AUROCs."""
    check(Scenario("anomaly", detection(8, 8, 2.0)), 15)


def test_scenarios_have_names_of_their_own() -> None:
    names = [one.name for one in scenarios()]
    assert len(set(names)) == len(names) - 2  # two correlations of each number of cases
