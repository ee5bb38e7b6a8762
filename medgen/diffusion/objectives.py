"""What the network predicts, how that turns into x0 and noise, and how its error is weighted.

On any path x_t = alpha x0 + sigma noise the target is one of
    eps   noise                       (Ho et al. 2020)
    x0    x0
    v     alpha noise - sigma x0      (Salimans & Ho 2022)
    flow  x0 - noise                  (Lipman et al. 2023; the velocity from noise towards data)
"""

from __future__ import annotations

import torch
from torch import Tensor

from medgen.diffusion.options import Objective
from medgen.diffusion.schedules import Schedule


def target(objective: Objective, schedule: Schedule, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Compute the target output for x_t: (B, ...) from x0 and noise (B, ...) and t (B,)."""
    if objective == "eps":
        return noise
    if objective == "x0":
        return x0
    if objective == "flow":
        return x0 - noise
    alpha, sigma = schedule.alpha_sigma_for(x0, t)
    return alpha * noise - sigma * x0


def to_x0(objective: Objective, schedule: Schedule, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Convert the network's output to the x0 it implies, (B, ...)."""
    if objective == "x0":
        return output
    alpha, sigma = schedule.alpha_sigma_for(x_t, t)
    if objective == "eps":
        return (x_t - sigma * output) / alpha
    if objective == "v":
        return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)
    return (x_t + sigma * output) / (alpha + sigma)


def loss_weight(objective: Objective, schedule: Schedule, t: Tensor, min_snr_gamma: float | None) -> Tensor:
    """Min-SNR weight (B,) of Hang et al. 2023; 1 without gamma, and for flow, which weighs noise levels evenly."""
    if min_snr_gamma is None or objective == "flow":
        return torch.ones(t.shape, dtype=torch.float64, device=t.device)
    snr = schedule.snr(t)
    clipped = snr.clamp(max=min_snr_gamma)
    if objective == "eps":
        return clipped / snr
    if objective == "x0":
        return clipped
    return clipped / (snr + 1)


def diffusion_loss(
    output: Tensor,
    objective: Objective,
    schedule: Schedule,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    min_snr_gamma: float | None = None,
    emphasis: Tensor | None = None,
) -> Tensor:
    """Weighted mean squared error of each sample, (B,), in at least float32.

    emphasis (B, 1, ...): weight of each place in the mean of its sample; None = all equal.
    """
    dtype = torch.promote_types(output.dtype, torch.float32)
    error = output.to(dtype) - target(objective, schedule, x0, noise, t).to(dtype)
    weight = loss_weight(objective, schedule, t, min_snr_gamma).to(error)
    return weight * mean_over_places(error.square(), emphasis)


def mean_over_places(errors: Tensor, emphasis: Tensor | None = None) -> Tensor:
    """Mean of each sample's errors (B, C, ...) with the weights `emphasis` (B, 1, ...): (B,)."""
    if emphasis is None:
        return errors.flatten(1).mean(1)
    return (errors * emphasis).flatten(1).mean(1) / emphasis.flatten(1).mean(1)
