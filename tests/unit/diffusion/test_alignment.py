"""Learning from rewards, on Gaussians whose best policy is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medgen.diffusion.alignment import (
    LIMIT,
    advantages,
    clipped_errors,
    nft_errors,
    optimality,
    pairs,
    preference_errors,
    regression_weights,
    step_log_ratio,
)

ALPHA, SIGMA = 0.6, 0.8
"""A point of a path that keeps the variance."""


def noised(x0: Tensor, seed: int = 1) -> Tensor:
    return ALPHA * x0 + SIGMA * torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed), dtype=x0.dtype)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_an_advantage_counts_against_its_group_alone() -> None:
    easy_and_hard = torch.tensor([5.0, 4.0, 3.0, 1.0, 0.5, 0.0])
    found = advantages(easy_and_hard, 3)
    assert torch.allclose(found[:3], found[3:], atol=1e-6)
    assert found[0] == pytest.approx(math.sqrt(1.5), rel=1e-6)
    assert optimality(found[1:2]).item() == pytest.approx(0.5)


def test_groups_without_spread_teach_nothing_at_any_size_of_reward() -> None:
    rewards = torch.tensor([3.3, 3.3, 3.3, 1e6, 1e6 + 0.06, 1e6, 1e-6, 2e-6, 3e-6])  # equal, rounding, tiny but unequal
    found = advantages(rewards, 3)
    assert found[:6].tolist() == [0.0] * 6
    assert found[6:].abs().max() > 1


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="group of one"):
        advantages(torch.zeros(3), 1)


def test_an_outlier_is_limited() -> None:
    rewards = torch.zeros(100)
    rewards[7] = 1.0
    found = advantages(rewards, 100)
    assert found.max() == LIMIT
    assert optimality(found).max() == 1.0


def test_reward_weighted_regression_finds_the_tilted_gaussian() -> None:
    """Data N(0, 1) tilted by exp(x / T) are N(1 / T, 1), whose denoiser is m + alpha (x_t - alpha m)."""
    x0, temperature = normal(200_000), 2.0
    x_t = noised(x0)
    weights = regression_weights(x0, temperature)
    assert weights.mean() == pytest.approx(1.0)
    design = torch.stack([x_t, torch.ones_like(x_t)], dim=1)
    weighted = design * weights[:, None]
    slope, level = torch.linalg.solve(weighted.T @ design, weighted.T @ x0).tolist()
    mean = 1 / temperature
    assert slope == pytest.approx(ALPHA, abs=0.02)
    assert level == pytest.approx(mean * (1 - ALPHA**2), abs=0.02)


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_nft_finds_its_optimum(strength: float) -> None:
    """With r = 1/2 + c x, the best change of the estimate is (2 / beta) cov(r, x0 | x_t) = (2 c / beta) sigma^2."""
    x0, slope = normal(4000, 64), 0.1
    good = (0.5 + slope * x0[:, 0]).clamp(0, 1)
    old = ALPHA * noised(x0)
    change = torch.zeros(64, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([change], max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nft_errors(old + change, old, x0, good, strength).mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)
    best = torch.zeros(64, dtype=torch.float64)
    best[0] = 2 * slope / strength * SIGMA**2
    assert torch.allclose(change.detach(), best, atol=0.04 / strength)


def test_nft_moves_towards_good_images_and_away_from_bad_ones() -> None:
    x0, old = torch.ones(3, 4), torch.zeros(3, 4)
    estimate = old.clone().requires_grad_()
    nft_errors(estimate, old, x0, torch.tensor([1.0, 0.5, 0.0]), 0.5).sum().backward()  # type: ignore[no-untyped-call]
    towards = -estimate.grad[:, 0]  # type: ignore[index]
    assert towards[0] > 0
    assert towards[1] == 0
    assert towards[2] == -towards[0]


def test_pairs_are_the_best_with_the_worst_of_each_group() -> None:
    winners, losers = pairs(torch.tensor([0.1, 0.9, 0.5, 0.3, 7.0, 7.0, 7.0, 7.0]), 4)
    assert list(zip(winners.tolist(), losers.tolist(), strict=True)) == [(1, 0), (2, 3)]


def test_a_preference_begins_undecided_and_favours_the_winner() -> None:
    winner, loser = torch.tensor([2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    before = winner.detach(), loser.detach()
    loss = preference_errors(winner, loser, *before, beta=4.0, guard=5.0)
    assert loss.item() == pytest.approx(math.log(2))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert winner.grad is not None
    assert loser.grad is not None
    assert (winner.grad.item(), loser.grad.item()) == pytest.approx((1.0, -1.0))  # beta / 2 * sigmoid(0)


@pytest.mark.parametrize(("guard", "falls"), [(0.0, True), (5.0, False)])
def test_the_guard_keeps_winners_from_falling_with_losers(guard: float, falls: bool) -> None:
    """Both are images of one slope, the loser twice as far out: plain DPO flees from both."""
    x = torch.tensor([1.0, 2.0])
    slope = torch.tensor(1.0, requires_grad=True)
    before = (x - 0.9 * x).square()
    for _ in range(200):
        now = (x - 0.9 * slope * x).square()
        loss = preference_errors(now[:1], now[1:], before[:1], before[1:], beta=20.0, guard=guard).sum()
        (gradient,) = torch.autograd.grad(loss, slope)
        with torch.no_grad():
            slope -= 0.01 * gradient
    risen = float((x[0] - 0.9 * slope.detach() * x[0]).square() - before[0])
    assert (risen > 0.01) == falls


def test_the_policy_gradient_is_that_of_the_expected_reward() -> None:
    """The mean reward of N(m, s^2) for r = x rises with m at rate 1."""
    following, std = 0.3 + 0.5 * normal(200_000, 1), 0.5
    mean = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ratio = step_log_ratio(following, mean.expand_as(following), torch.full_like(following, 0.3), std)
    assert ratio.abs().max() == 0
    clipped_errors(ratio, following[:, 0], 1e-4).mean().backward()  # type: ignore[no-untyped-call]
    assert mean.grad is not None
    assert -mean.grad.item() == pytest.approx(1.0, abs=0.02)


def test_the_log_ratio_is_that_of_gaussians() -> None:
    following, mean, old = normal(5, 7), torch.full((5, 7), 0.2).double(), torch.full((5, 7), -0.1).double()
    now, before = (torch.distributions.Normal(one, 0.7).log_prob(following).mean(1) for one in (mean, old))
    assert torch.allclose(step_log_ratio(following, mean, old, 0.7), now - before)


def test_clipped_steps_teach_no_more() -> None:
    log_ratio = torch.tensor([2e-4, -2e-4, 2e-4, -2e-4], requires_grad=True)
    clipped_errors(log_ratio, torch.tensor([1.0, -1.0, -1.0, 1.0]), 1e-4).sum().backward()  # type: ignore[no-untyped-call]
    assert log_ratio.grad is not None
    assert log_ratio.grad[:2].tolist() == [0.0, 0.0]
    assert log_ratio.grad[2:].abs().min() > 0.9
