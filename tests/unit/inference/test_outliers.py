"""Outliers are found in each measure, few cases and equal cases name nobody."""

from __future__ import annotations

import numpy as np
import pytest

from medgen.artifacts.latent_space import LatentSpace
from medgen.inference.outliers import Summary, find_outliers, overall, summarize

SPACE = LatentSpace(scale=0.5, shift=1.0)


def summaries(count: int = 200) -> list[Summary]:
    rng = np.random.default_rng(0)
    return [summarize(f"case-{i}", 1 + 2 * rng.normal(size=(1, 4, 8, 8)), SPACE) for i in range(count)]


def test_summaries_are_of_the_scaled_latents() -> None:
    latents = np.random.default_rng(1).normal(size=(2, 4, 8, 8))
    scaled = (latents - 1.0) * 0.5
    assert summarize("a", latents, SPACE).values == pytest.approx((scaled.mean(), scaled.std(), np.abs(scaled).max()))


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        (lambda z: z + 3.0, "mean"),
        (lambda z: 1 + 3 * (z - 1), "standard deviation"),
        (lambda z: np.where(np.arange(8) == 0, np.where(np.arange(8)[:, None] == 0, z + 40, z), z), "largest value"),
    ],
)
def test_an_outlier_is_named_with_what_sets_it_apart(change: object, measure: str) -> None:
    latents = 1 + 2 * np.random.default_rng(2).normal(size=(1, 4, 8, 8))
    odd = summarize("odd", change(latents), SPACE)  # type: ignore[operator]
    found = find_outliers([*summaries(), odd], 8.0)
    assert [outlier.case for outlier in found] == ["odd"]
    assert found[0].measure in (measure, "largest value")
    assert found[0].deviations > 8
    assert find_outliers(summaries(), 8.0) == []
    assert find_outliers([*summaries(), odd], 0.0) == []


def test_the_deviations_are_those_of_the_median_and_its_absolute_deviation() -> None:
    values = [float(i) for i in range(19)]
    found = find_outliers([Summary(str(v), (v, 1.0, 1.0)) for v in [*values, 100.0]], 3.0)
    # median 9.5, median absolute deviation 5
    assert [(outlier.case, outlier.measure) for outlier in found] == [("100.0", "mean")]
    assert found[0].deviations == pytest.approx((100 - 9.5) / (1.4826 * 5))


def test_few_cases_name_nobody() -> None:
    odd = Summary("odd", (100.0, 1.0, 1.0))
    assert find_outliers([*summaries(18), odd], 8.0) == []
    assert [outlier.case for outlier in find_outliers([*summaries(19), odd], 8.0)] == ["odd"]


def test_the_overall_moments_are_those_of_all_channels_together() -> None:
    values = np.random.default_rng(3).normal(size=(5, 3, 4)) * np.array([[1.0], [2.0], [3.0]]) + np.array(
        [[0.0], [1.0], [5.0]]
    )
    mean, std = overall(values.mean((0, 2)).tolist(), values.std((0, 2)).tolist())
    assert (mean, std) == pytest.approx((values.mean(), values.std()))
    assert overall([], []) == (0.0, 0.0)
