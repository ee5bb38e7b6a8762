"""Losses of the two branches: closed forms, and where gradients must not go."""

from __future__ import annotations

import pytest
import torch

from medgen.diffusion.objectives import diffusion_loss, loss_weight, mean_over_places, target, to_x0
from medgen.diffusion.options import Objective, ScheduleConfig
from medgen.diffusion.schedules import Schedule
from medgen.diffusion.siamese import consistency, emphasis, reseen

SCHEDULE = Schedule(ScheduleConfig())
T = torch.tensor([0, 150, 900])


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (3, 2, 4, 4)), generator=torch.Generator().manual_seed(seed))


def test_consistency_is_the_square_distance_and_leads_the_mask_branch_alone() -> None:
    mask, image = randn(0).requires_grad_(), randn(1).requires_grad_()
    distance = consistency(mask, image, "eps", SCHEDULE, T)
    torch.testing.assert_close(distance, (mask - image).square().mean((1, 2, 3)))
    distance.sum().backward()
    assert image.grad is None
    torch.testing.assert_close(mask.grad, 2 * (mask - image).detach() / mask[0].numel())


@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
def test_consistency_is_weighted_as_the_branches_are(objective: Objective) -> None:
    """A distance between branches weighs as much as the same error of one branch."""
    x0, noise, error = randn(0), randn(1), randn(2)
    right = target(objective, SCHEDULE, x0, noise, T)
    of_branch = diffusion_loss(right + error, objective, SCHEDULE, x0, noise, T, 5.0)
    torch.testing.assert_close(
        consistency(right + error, right, objective, SCHEDULE, T, 5.0), of_branch, rtol=1e-4, atol=1e-5
    )
    assert loss_weight(objective, SCHEDULE, T, 5.0)[0] != 1


@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
def test_what_is_seen_again_is_the_estimate_under_the_same_noise(objective: Objective) -> None:
    x0, noise = randn(0), randn(1)
    x_t = SCHEDULE.add_noise(x0, noise, T)
    right = target(objective, SCHEDULE, x0, noise, T)
    estimate, again = reseen(right, objective, SCHEDULE, x_t, noise, T)  # of a branch that makes no error
    torch.testing.assert_close(estimate[:2], x0[:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, x_t, rtol=1e-4, atol=1e-4)
    output = (right + 0.1 * randn(2)).requires_grad_()
    estimate, again = reseen(output, objective, SCHEDULE, x_t, noise, T)
    torch.testing.assert_close(estimate, to_x0(objective, SCHEDULE, output, x_t, T))
    assert not estimate.requires_grad
    assert not again.requires_grad
    alpha, sigma = SCHEDULE.alpha_sigma_for(x_t, T)
    torch.testing.assert_close(again, alpha * estimate + sigma * noise)


def test_emphasis_counts_by_the_covered_area() -> None:
    mask = torch.zeros(2, 2, 4, 4)  # the second sample has no lesion
    mask[0, 0, 0, 0] = mask[0, 1, 1, 1] = 1  # two of the four pixels of a corner, of different classes
    weights = emphasis(mask, torch.Size((2, 2)), 9.0)
    assert weights is not None
    assert weights[0, 0].tolist() == [[5.0, 1.0], [1.0, 1.0]]
    assert weights[1].eq(1).all()
    assert emphasis(mask, torch.Size((2, 2)), 1.0) is None


def test_an_emphasized_mean_is_the_mean_over_repeated_places() -> None:
    errors, weights = randn(0, 2, 3, 2, 2), torch.tensor([[[[3.0, 1.0], [1.0, 1.0]]], [[[1.0] * 2] * 2]])
    repeated = torch.cat([errors[0, :, 0, :1], errors[0, :, 0, :1], errors[0].flatten(1)], dim=1)
    torch.testing.assert_close(mean_over_places(errors, weights)[0], repeated.mean())
    torch.testing.assert_close(mean_over_places(errors, weights)[1], errors[1].mean())
    x0, noise = randn(1, 2, 3, 2, 2), randn(2, 2, 3, 2, 2)
    loss = diffusion_loss(noise + errors, "eps", SCHEDULE, x0, noise, T[:2], None, weights)
    torch.testing.assert_close(loss, mean_over_places(errors.square(), weights), rtol=1e-4, atol=1e-5)
