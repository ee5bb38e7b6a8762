"""Learning from rewards: how the error of a denoiser is weighed so that it draws more of what is scored well.

Images come in groups of one condition each, and a reward counts only against the others of its group: hence no
condition is favoured for being easy. Estimates of x0 are compared, so that each method holds for any objective.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LIMIT = 5.0
"""Largest advantage, in standard deviations of its group."""
SPREAD = 1e-6
"""Standard deviation of rewards, relative to their size, below which they count as equal."""


def advantages(rewards: Tensor, size: int) -> Tensor:
    """Rewards (B,) of groups of `size` in a row -> (B,): mean 0 and standard deviation 1 in each group, in +-LIMIT.

    All 0 in a group whose rewards are equal, since dividing by no spread would turn rounding into a preference.
    ValueError for groups of one, which hold no comparison.
    """
    if size < 2:
        raise ValueError("a group of one holds no comparison")
    groups = rewards.double().view(-1, size)
    centred = groups - groups.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    flat = spread <= SPREAD * groups.abs().amax(1, keepdim=True).clamp(min=1e-30)
    scaled = torch.where(flat, 0.0, centred / spread.where(~flat, 1.0))
    return scaled.clamp(-LIMIT, LIMIT).flatten().to(rewards.dtype)


def optimality(advantage: Tensor) -> Tensor:
    """Advantage (B,) -> the share r in [0, 1] of an image that counts as good (Zheng et al. 2025, section 3.4)."""
    return advantage / (2 * LIMIT) + 0.5


def nft_errors(estimate: Tensor, old: Tensor, x0: Tensor, good: Tensor, strength: float) -> Tensor:
    """Loss of each image, (B,): DiffusionNFT (Zheng et al. 2025, eq. 5), on estimates of x0, all (B, ...).

    `good` (B,) is r; `old` is what the policy that drew x0 estimates. The good share of an image is to be met by
    old + beta (estimate - old), the rest by old - beta (estimate - old), with beta = `strength`. Each error is divided
    by its own mean size, as the authors do, so that no noise level dominates.
    """
    change = strength * (estimate - old)
    return good * _self_scaled(old + change - x0) + (1 - good) * _self_scaled(old - change - x0)


def regression_weights(advantage: Tensor, temperature: float) -> Tensor:
    """Weights (B,) of mean 1, proportional to exp(advantage / temperature): reward-weighted regression.

    Peters & Schaal 2007; for diffusion models Black et al. 2024, section 4.1 (RWR).
    """
    return torch.softmax(advantage / temperature, dim=0) * len(advantage)


def pairs(advantage: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Numbers of winners and losers, (P,) each: in each group of `size` the best with the worst, the second best, ...

    Pairs of equals are left out.
    """
    order = advantage.view(-1, size).argsort(dim=1, descending=True, stable=True)
    order = order + torch.arange(0, len(advantage), size, device=order.device)[:, None]
    winners, losers = order[:, : size // 2].flatten(), order.flip(1)[:, : size // 2].flatten()
    unequal = advantage[winners] > advantage[losers]
    return winners[unequal], losers[unequal]


def preference_errors(
    winner: Tensor, loser: Tensor, winner_before: Tensor, loser_before: Tensor, beta: float, guard: float
) -> Tensor:
    """Loss of each pair, (P,): Diffusion-DPO (Wallace et al. 2024, eq. 14), from errors (P,) at one time and noise.

    `winner_before` and `loser_before` are the errors of the reference model. Plain DPO is content to make both less
    likely, if only the loser falls more. `guard` is the weight of what the winner has lost against the reference,
    which counts inside the comparison (Pal et al. 2024, eq. 3).
    """
    risen = winner - winner_before
    margin = loser - loser_before - risen - guard * F.relu(risen)
    return -F.logsigmoid(0.5 * beta * margin)


def step_log_ratio(following: Tensor, mean: Tensor, mean_old: Tensor, std: float) -> Tensor:
    """Log of how much likelier (B,) the step to `following` (B, ...) is than it was, per dimension.

    Both policies step to a Gaussian of standard deviation `std` around their mean (B, ...) (Black et al. 2024, eq. 6).
    """
    change = (following - mean_old).square() - (following - mean).square()
    return change.flatten(1).mean(1) / (2 * std**2)


def clipped_errors(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Loss of each step, (B,): policy gradient with importance ratios in 1 +- `clip`.

    Schulman et al. 2017, eq. 7, over the chain of samples as in Black et al. 2024, section 4.3 (DDPO-IS).
    """
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def _self_scaled(error: Tensor) -> Tensor:
    """Squared error over its own mean size, which gets no gradient: (B, ...) -> (B,)."""
    error = error.flatten(1)
    size = error.detach().abs().mean(1).clamp(min=1e-5)
    return error.square().mean(1) / size
