"""AUROC, average precision and Dice by closed form and against torchmetrics and scipy, ties included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from medgen.evaluation.anomaly.detection import (
    CODES,
    RESOLUTION,
    auroc,
    auroc_of_counts,
    average_precision,
    average_precision_of_counts,
    codes_of,
    dice_of_counts,
    threshold_code,
    value_of,
)

FLOATS = st.floats(-1e6, 1e6, width=32, allow_nan=False, allow_subnormal=False)


def drawn(seed: int, count: int = 300, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Positives and scores that tell them apart a little; with few `levels` most of them tie."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.3
    scores = rng.normal(size=count) + positive
    return positive, scores if levels is None else np.round(scores * levels / 6)


@pytest.mark.parametrize("levels", [None, 40, 5, 1])
@pytest.mark.parametrize("seed", range(3))
def test_they_agree_with_other_libraries(seed: int, levels: int | None) -> None:
    positive, scores = drawn(seed, levels=levels)
    rank = stats.mannwhitneyu(scores[positive], scores[~positive]).statistic / (positive.sum() * (~positive).sum())
    assert auroc(positive, scores) == pytest.approx(rank, abs=1e-12)
    told, truth = torch.from_numpy(scores.argsort().argsort() * 0.0 + scores), torch.from_numpy(positive).long()
    told = (told - told.min()) / (told.max() - told.min())  # torchmetrics takes others for logits
    assert auroc(positive, scores) == pytest.approx(float(binary_auroc(told, truth)), abs=1e-5)
    expected = float(binary_average_precision(told, truth))
    assert average_precision(positive, scores) == pytest.approx(expected, abs=1e-5)


def test_by_hand() -> None:
    positive = np.array([True, False, True, False])
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    assert auroc(positive, scores) == 0.75
    assert average_precision(positive, scores) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert auroc(positive, np.ones(4)) == 0.5
    assert average_precision(positive, np.ones(4)) == 0.5
    assert np.isnan(auroc(np.ones(3, bool), np.arange(3.0)))
    assert np.isnan(average_precision(np.zeros(3, bool), np.arange(3.0)))


def test_dice_at_every_value_is_that_of_the_marked_samples() -> None:
    positive, scores = drawn(4, 60, levels=12)
    values = np.unique(scores)
    counts = [np.array([np.sum(positive[scores == v]) for v in values], float)]
    counts.append(np.array([np.sum(~positive[scores == v]) for v in values], float))
    expected = [2 * np.sum(positive & (scores >= v)) / (np.sum(scores >= v) + positive.sum()) for v in values]
    np.testing.assert_allclose(dice_of_counts(*counts), expected)


def test_counts_may_be_stacked() -> None:
    rng = np.random.default_rng(0)
    hit, missed = rng.integers(0, 5, (2, 4, 9)).astype(float)
    for statistic in (auroc_of_counts, average_precision_of_counts):
        np.testing.assert_allclose(statistic(hit, missed), [statistic(a, b) for a, b in zip(hit, missed, strict=True)])


@given(st.lists(FLOATS, min_size=2, max_size=40))
@example([0.0, -0.0])
def test_codes_keep_the_order_and_the_size(values: list[float]) -> None:
    array = np.sort(np.array(values, np.float32))
    codes = codes_of(array)
    assert (np.diff(codes.astype(int)) >= 0).all()
    for value, code in zip(array.tolist(), codes.tolist(), strict=True):
        assert abs(value_of(code) - value) <= RESOLUTION * abs(value) + 1e-37
        assert abs(value_of(code)) <= abs(value)


@given(st.lists(st.integers(0, 30), min_size=50, max_size=50), st.floats(0.001, 0.9))
def test_a_threshold_marks_as_many_as_it_may_and_no_more(counts: list[int], rate: float) -> None:
    negatives = np.zeros(CODES)
    negatives[1000:1050] = counts
    if not negatives.any():
        return
    code = threshold_code(negatives, rate)
    assert negatives[code:].sum() <= rate * negatives.sum()
    assert code == 0 or negatives[code - 1 :].sum() > rate * negatives.sum()
