"""How alike two images are where they lie on each other best: every small shift is tried, by Fourier transforms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FAINT = 1e-6
"""Variance (of images in [-1, 1]) below which an image shows nothing; it is like no other."""


def align(a: Tensor, b: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """sqrt(1 - correlation) (N,) of images a and b (N, C, H, W) over their overlap, and the shift (N, 2) of b.

    0 for equal images, also of another brightness and contrast; about 1 for unrelated ones. Shifts (down, right) run
    from -reach to reach pixels, reach below H and W; a[y, x] lies on b[y - down, x - right].
    """
    height, width = a.shape[-2:]
    x, y = _standardised(a), _standardised(b)
    size = (height + reach, width + reach)  # no wrap-around at these lags
    ones = torch.fft.rfft2(torch.ones(height, width, dtype=a.dtype, device=a.device), s=size)
    of_x, of_y = torch.fft.rfft2(x, s=size), torch.fft.rfft2(y, s=size)
    squares_x, squares_y = (torch.fft.rfft2(one.square().sum(1), s=size) for one in (x, y))
    spectrum = squares_x * ones.conj() + ones * squares_y.conj() - 2 * (of_x * of_y.conj()).sum(1)
    lags = torch.arange(-reach, reach + 1, device=a.device)
    squared = torch.fft.irfft2(spectrum, s=size)[:, lags][:, :, lags]  # (N, lags, lags), summed over the overlap
    overlap = (height - lags.abs())[:, None] * (width - lags.abs())
    best = (squared / overlap).flatten(1).argmin(1)
    shifts = torch.stack([lags[best // len(lags)], lags[best % len(lags)]], dim=1)
    return torch.stack([_unlikeness(*pair) for pair in zip(a, b, shifts.tolist(), strict=True)]), shifts


def overlapping(a: Tensor, b: Tensor, shift: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The parts of a and b (C, H, W) that lie on each other when b is shifted by (down, right) pixels."""
    down, right = shift
    height, width = a.shape[-2:]
    rows_a, rows_b = slice(max(down, 0), height + min(down, 0)), slice(max(-down, 0), height + min(-down, 0))
    columns_a, columns_b = slice(max(right, 0), width + min(right, 0)), slice(max(-right, 0), width + min(-right, 0))
    return a[:, rows_a, columns_a], b[:, rows_b, columns_b]


def small(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) reduced to `size` and smoothed a little: noise and fractions of a pixel count less then."""
    x = images if images.shape[-2:] == size else F.adaptive_avg_pool2d(images, size)
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    return (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4


def _standardised(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=(1, 2, 3), keepdim=True)
    return (x - mean) / (variance + FAINT).sqrt()


def _unlikeness(a: Tensor, b: Tensor, shift: tuple[int, int]) -> Tensor:
    ours, theirs = (part - part.mean() for part in overlapping(a.double(), b.double(), shift))
    least = FAINT * ours.numel()
    power = (ours.square().sum().clamp(min=least) * theirs.square().sum().clamp(min=least)).sqrt()
    return (1 - (ours * theirs).sum() / power).clamp(min=0).sqrt()
