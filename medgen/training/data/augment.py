"""Random views of images; each sample's view depends on its position in the training."""

from __future__ import annotations

import torch
from torch import Tensor

from medgen.errors import ConfigError
from medgen.training.data.step import Step


def random_crop(x: Tensor, side: int, step: Step) -> Tensor:
    """Cut a square of `side` pixels out of each image, (B, C, H, W) -> (B, C, side, side)."""
    height, width = x.shape[-2:]
    if side > min(height, width):
        raise ConfigError(f"crop = {side} exceeds the images of {height} x {width} pixels; lower it")
    places = step.own(torch.rand(step.total, 2, generator=step.generator("crop")))
    corners = (places * torch.tensor([height - side + 1, width - side + 1])).long().tolist()
    return torch.stack(
        [image[:, top : top + side, left : left + side] for image, (top, left) in zip(x, corners, strict=True)]
    )


def random_flip(x: Tensor, step: Step) -> Tensor:
    """Mirror half of the images along the last axis, (B, C, H, W) -> the same shape."""
    chosen = step.own(torch.rand(step.total, generator=step.generator("flip")) < 0.5).to(x.device)
    return torch.where(chosen.view(-1, 1, 1, 1), x.flip(-1), x)
