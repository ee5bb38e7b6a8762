"""What images were asked to show, as sets store it, and features of it and of how the image follows a mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.spelling import composed

PLACE = ("x", "y", "size")
"""Fields of a vector that together say where something was asked for."""
REGION = 4
"""Features of how one region looks."""
WORDS = 64
"""Columns that words are hashed into."""
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Requested:
    """The requests of a batch; a part that is None was not asked for."""

    vector: Tensor | None = None
    """(B, K), numbers in [0, 1]."""
    mask: Tensor | None = None
    """(B, 1, H, W) uint8 classes."""
    text: Sequence[str] | None = None
    """One text an image."""
    modality: Sequence[str] | None = None
    """One name an image."""


def joined(requests: Sequence[Requested]) -> Requested:
    """Several requests with the same parts, one after the other."""
    parts: dict[str, Any] = {}
    for name in (field.name for field in fields(Requested)):
        values = [part for one in requests if (part := getattr(one, name)) is not None]
        if values:
            parts[name] = (
                torch.cat(values) if isinstance(values[0], Tensor) else [word for part in values for word in part]
            )
    return Requested(**parts)


def request_features(requested: Requested, classes: int, count: int) -> Tensor:
    """Features of the requests alone, (count, R): the vector; of each class its area and centre; hashed words."""
    parts = []
    if requested.vector is not None:
        parts.append(requested.vector.float())
    if requested.mask is not None:
        parts.append(_places(one_hot(requested.mask, classes)))
    if requested.text is not None:
        parts.append(torch.stack([hashed(_WORD.findall(composed(text).lower())) for text in requested.text]))
    if requested.modality is not None:
        parts.append(torch.stack([hashed([composed(name).lower()]) for name in requested.modality]))
    if not parts:
        return torch.zeros(count, 0)
    device = parts[0].device
    return torch.cat([part.to(device) for part in parts], dim=1)


def region_features(images: Tensor, mask: Tensor, classes: int) -> Tensor:
    """How images (B, C, H, W) look in each class of their masks (B, 1, H, W): (B, REGION * (classes - 1)).

    Mean and spread inside, contrast to the ring around, and the gradient along the border; 0 for an absent class.
    """
    gray = images.float().mean(dim=1, keepdim=True)
    inside = one_hot(mask.to(images.device), classes)  # (B, K, H, W)
    radius = max(gray.shape[-1] // 32, 1)
    window = 2 * radius + 1
    grown = F.max_pool2d(inside, window, stride=1, padding=radius)
    shrunk = 1 - F.max_pool2d(1 - inside, window, stride=1, padding=radius)
    ring, border = grown - inside, grown - shrunk
    slope = torch.zeros_like(gray)
    slope[..., :-1, :] += (gray[..., 1:, :] - gray[..., :-1, :]).abs()
    slope[..., :, :-1] += (gray[..., :, 1:] - gray[..., :, :-1]).abs()
    mean = _mean(gray, inside)
    spread = (_mean(gray.square(), inside) - mean.square()).clamp(min=0).sqrt()
    there = (inside.sum(dim=(2, 3)) > 0).float()
    contrast = (mean - _mean(gray, ring)) * there
    return torch.cat([mean, spread, contrast, _mean(slope, border)], dim=1)


def discs(vector: Tensor, fields: Sequence[str], height: int, width: int) -> Tensor:
    """The discs that vectors (B, K) with these fields name by PLACE, as label maps (B, 1, height, width) uint8.

    `x` and `y` are shares of the width and the height, `size` is the diameter as a share of the width. A size of 0 asks
    for none; others cover one pixel at least.
    """
    x, y, size = (vector[:, fields.index(name), None, None].double() for name in PLACE)
    down = (torch.arange(height, device=vector.device, dtype=torch.float64) + 0.5)[None, :, None] - y * height
    across = (torch.arange(width, device=vector.device, dtype=torch.float64) + 0.5)[None, None, :] - x * width
    radius = (size * width / 2).clamp(min=0.75)
    return ((torch.hypot(down, across) <= radius) & (size > 0)).to(torch.uint8)[:, None]


def one_hot(mask: Tensor, classes: int) -> Tensor:
    """Label maps (B, 1, H, W) -> one channel for each class but the background, (B, classes - 1, H, W)."""
    values = torch.arange(1, classes, device=mask.device, dtype=mask.dtype)
    return (mask == values[None, :, None, None]).float()


def hashed(words: Sequence[str]) -> Tensor:
    """The set of words as a vector (WORDS,): each adds 1 or -1 at a place that its digest chooses (Weinberger 2009)."""
    row = torch.zeros(WORDS)
    for word in sorted(set(words)):
        number = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
        row[number % WORDS] += 1.0 if (number // WORDS) % 2 else -1.0
    return row


def _places(inside: Tensor) -> Tensor:
    """Area, and centre down and across from the middle, of each class: (B, K, H, W) -> (B, 3 K), 0 where absent."""
    height, width = inside.shape[-2:]
    down = (torch.arange(height, device=inside.device) + 0.5) / height - 0.5
    across = (torch.arange(width, device=inside.device) + 0.5) / width - 0.5
    centres = [_mean(down[None, None, :, None], inside), _mean(across[None, None, None, :], inside)]
    return torch.cat([inside.mean(dim=(2, 3)), *centres], dim=1)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted means over the pixels, (B, K); 0 where there is no weight."""
    return (values * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp(min=1e-6)
