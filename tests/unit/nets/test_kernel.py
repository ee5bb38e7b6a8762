"""The joint kernel distance: unbiased, and it sees both conditions that are ignored and variety that is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medgen.nets.perception.kernel import joint_distance


def pairs(seed: int, gain: float, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Features (64, 3), the first of which follows a condition (64, 1) with this gain."""
    random = torch.Generator().manual_seed(seed)
    asked = torch.randn(64, 1, generator=random)
    features = noise * torch.randn(64, 3, generator=random)
    features[:, :1] += gain * asked
    return features, asked


def distance(gain: float, noise: float = 0.5, draws: int = 40) -> tuple[float, float]:
    """Mean over draws of the distance from pairs of gain 1, and the standard error of that mean."""
    found = []
    for seed in range(draws):
        real, asked = pairs(seed, 1.0)
        made = noise * torch.randn(64, 3, generator=torch.Generator().manual_seed(1000 + seed))
        made[:, :1] += gain * asked
        found.append(joint_distance(real, made, asked))
    return float(np.mean(found)), float(np.std(found) / draws**0.5)


def test_it_is_zero_on_average_where_both_agree() -> None:
    mean, error = distance(1.0)
    assert abs(mean) < 4 * error


def test_an_ignored_condition_and_lost_variety_and_too_much_of_either_count() -> None:
    for wrong in (distance(0.0), distance(2.0), distance(1.0, noise=0.1), distance(1.0, noise=1.0)):
        assert wrong[0] > 6 * wrong[1]


def test_images_under_each_others_conditions_are_far_though_the_images_are_the_same() -> None:
    real, asked = pairs(0, 1.0)
    turned = real.roll(7, dims=0)
    assert joint_distance(real, turned, torch.zeros_like(asked)) < 0 < 1 < joint_distance(real, turned, asked)


def test_features_that_never_vary_count_for_nothing() -> None:
    real, asked = pairs(0, 1.0)
    made = real.roll(1, dims=0)
    wider = [torch.cat([part, torch.full((64, 2), 7.0)], dim=1) for part in (real, made)]
    assert joint_distance(wider[0], wider[1], asked) == pytest.approx(joint_distance(real, made, asked))
