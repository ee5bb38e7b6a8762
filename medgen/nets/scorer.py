"""How experts would rate an image, from its features and those of what it was asked to show."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from medgen.config import Options

LOWEST, HIGHEST = 1.0, 5.0
"""Ends of the scale of ratings."""
STEPS = 4
"""Cut points between its five values."""


class ScorerConfig(Options, frozen=True):
    """Sizes of a scorer."""

    aspects: Annotated[int, Meta(ge=1)] = 1
    image_features: Annotated[int, Meta(ge=1)] = 1
    request_features: Annotated[int, Meta(ge=0)] = 0


class Scorer(nn.Module):
    """For each aspect a bilinear form of both features, and the rating expected at its value.

    The rating follows cumulative logits (McCullagh 1980): P(rating > k) = sigmoid(belief - cutpoint k).
    """

    image_mean: Tensor
    image_spread: Tensor
    request_mean: Tensor
    request_spread: Tensor
    weight: Tensor
    cutpoints: Tensor

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        image, request, aspects = config.image_features, config.request_features, config.aspects
        self.config = config
        self.register_buffer("image_mean", torch.zeros(image))
        self.register_buffer("image_spread", torch.ones(image))
        self.register_buffer("request_mean", torch.zeros(request))
        self.register_buffer("request_spread", torch.ones(request))
        self.register_buffer("weight", torch.zeros(aspects, image + 1, request + 1))  # the last row, column: of 1
        self.register_buffer("cutpoints", torch.zeros(aspects, STEPS))

    def belief(self, image: Tensor, request: Tensor) -> Tensor:
        """Features (B, F) and (B, R) -> how good each aspect is, (B, A), in logits."""
        ours = _with_one((image - self.image_mean) / self.image_spread)
        theirs = _with_one((request - self.request_mean) / self.request_spread)
        return torch.einsum("bf,afr,br->ba", ours, self.weight, theirs)

    def forward(self, image: Tensor, request: Tensor) -> Tensor:
        """Features (B, F) and (B, R) -> the expected rating of each aspect, (B, A), from 1 to 5."""
        above = torch.sigmoid(self.belief(image, request)[..., None] - self.cutpoints)  # (B, A, 4)
        return LOWEST + (HIGHEST - LOWEST) * above.mean(dim=-1)


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)
