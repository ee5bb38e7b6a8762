from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medgen.evaluation.fidelity.inception_score import inception_score, score, weighted_scores


def test_closed_forms() -> None:
    assert score(torch.full((20, 10), 0.1)) == pytest.approx(1)  # nothing told apart
    assert score(torch.eye(10).repeat(3, 1)) == pytest.approx(10)  # each class certain, all as frequent
    assert score(torch.eye(10)[:1].repeat(5, 1)) == pytest.approx(1)  # certain, but always the same
    half = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    divergence = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert score(half) == pytest.approx(np.exp(divergence))


def test_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.inception import InceptionScore

    logits = torch.randn(80, 12, generator=torch.Generator().manual_seed(0)) * 2

    class Given(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return logits

    other = InceptionScore(feature=Given(), splits=1)
    other.update(torch.zeros(80, 3, 8, 8, dtype=torch.uint8))
    assert score(logits.softmax(1)) == pytest.approx(float(other.compute()[0]), rel=1e-5)


def test_splits_are_scored_one_by_one_and_small_samples_are_not_split() -> None:
    p = (torch.randn(1000, 6, generator=torch.Generator().manual_seed(1)) * 2).softmax(1)
    value, deviation, splits = inception_score(p, np.arange(1000))
    parts = [score(part) for part in p.split(100)]
    assert splits == 10
    assert value == pytest.approx(np.mean(parts))
    assert deviation == pytest.approx(np.std(parts))
    assert inception_score(p[:150], np.arange(150))[1:] == (0.0, 1)


def test_weights_are_repeated_rows() -> None:
    p = (torch.randn(5, 4, generator=torch.Generator().manual_seed(2)) * 2).softmax(1)
    weights = np.array([[1.0, 0, 2, 1, 1], [0, 0, 0, 0, 3]])
    rows = [torch.tensor([0, 2, 2, 3, 4]), torch.tensor([4, 4, 4])]
    np.testing.assert_allclose(weighted_scores(p, weights), [score(p[row]) for row in rows])
