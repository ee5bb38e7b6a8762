"""Losses of two branches that share a network: one sees the mask, the other the image too (Qiu et al. 2025).

With e_m and e_mix, the answers of the mask and of the image branch to the same x_t, and sg = stop-gradient:
    mask          ||target - e_m||^2
    image         ||target - e_mix||^2
    consistency   ||e_m - sg(e_mix)||^2
    augmentation  ||target - e_m(x~_t)||^2 for small t, where x~_t is the noisy estimate of x0 by the image branch
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.diffusion.objectives import loss_weight, mean_over_places, to_x0
from medgen.diffusion.options import Objective
from medgen.diffusion.schedules import Schedule


def image_weight(progress: float) -> float:
    """Weight of the image's features in the image branch, rising over the training: progress in [0, 1]."""
    return progress


def consistency(
    mask_output: Tensor,
    image_output: Tensor,
    objective: Objective,
    schedule: Schedule,
    t: Tensor,
    min_snr_gamma: float | None = None,
    emphasis: Tensor | None = None,
) -> Tensor:
    """Distance of the mask branch from the image branch, (B,), weighted as in `diffusion_loss`; only it learns."""
    dtype = torch.promote_types(mask_output.dtype, torch.float32)
    error = mask_output.to(dtype) - image_output.detach().to(dtype)
    return loss_weight(objective, schedule, t, min_snr_gamma).to(error) * mean_over_places(error.square(), emphasis)


def reseen(
    image_output: Tensor, objective: Objective, schedule: Schedule, x_t: Tensor, noise: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """The image branch's estimate of x0, and that estimate at time t with the same noise; (B, ...), no gradient."""
    with torch.no_grad():
        x0 = to_x0(objective, schedule, image_output.detach().to(x_t.dtype), x_t, t)
        return x0, schedule.add_noise(x0, noise, t)


def emphasis(mask: Tensor, size: torch.Size, weight: float) -> Tensor | None:
    """Weights (B, 1, h, w) in the loss: `weight` inside the mask (B, M, H, W), 1 outside; None where all are 1.

    At the border, a place is weighted by the share of its area that the mask covers.
    """
    if weight == 1:
        return None
    return 1 + (weight - 1) * F.interpolate(mask.sum(1, keepdim=True), tuple(size), mode="area")
