from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from medgen.errors import DataError
from medgen.evaluation.fidelity.frechet import Gaussian, fit, frechet_between, frechet_distance


def test_closed_form_of_two_diagonal_gaussians() -> None:
    mean_a, mean_b = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([1.0, 1.0, 2.0]).double()
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 0.25]).double()
    expected = (mean_a - mean_b).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    distance = frechet_distance(Gaussian(mean_a, a.diag()), Gaussian(mean_b, b.diag()))
    assert distance == pytest.approx(float(expected), rel=1e-12)


def test_agrees_with_the_matrix_square_root() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(200, 12)) @ random.normal(size=(12, 12)), random.normal(size=(150, 12)) + 0.3
    covariances = np.cov(x.T), np.cov(y.T)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(fit(torch.from_numpy(x)), fit(torch.from_numpy(y))) == pytest.approx(expected, rel=1e-9)


def test_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.fid import _compute_fid

    random = torch.Generator().manual_seed(0)
    a = fit(torch.randn(300, 8, generator=random) * 2)
    b = fit(torch.randn(300, 8, generator=random) + 1)
    expected = float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_is_zero_for_itself_and_symmetric_even_when_singular() -> None:
    few = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))  # covariance of rank 4
    others = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    a, b = fit(few), fit(others)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


def test_is_a_squared_distance() -> None:
    """A shift by d adds d squared, with no square root."""
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    shifted = features + torch.tensor([3.0, 0.0, 4.0])
    assert frechet_distance(fit(features), fit(shifted)) == pytest.approx(25.0, rel=1e-4)


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(DataError, match="at least 2"):
        fit(torch.zeros(1, 4))


@pytest.mark.parametrize(("n", "m"), [(9, 7), (9, 60), (60, 9), (60, 50)])
def test_the_short_way_for_few_samples_gives_the_same(n: int, m: int) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(n, 20)) * np.arange(1, 21), random.normal(size=(m, 20)) + 0.3
    expected = frechet_distance(fit(torch.from_numpy(x)), fit(torch.from_numpy(y)))
    assert frechet_between(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-6)


def test_few_samples_of_one_distribution_are_far_from_each_other() -> None:
    """The small-sample bias that every report has to warn of: it goes down as 1/N."""

    def distance(count: int) -> float:
        a, b = (torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        return frechet_between(a, b)

    assert distance(50) > 5 * distance(500) > 25 * distance(5000)
    with pytest.raises(DataError, match="at least 2"):
        frechet_between(torch.zeros(1, 4), torch.zeros(9, 4))
