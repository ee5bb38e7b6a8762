"""Similarity of images at their best alignment: every small shift is tried, by Fourier transforms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FAINT = 1e-6
"""Variance (of images in [-1, 1]) below which an image shows nothing; it is like no other."""


def align(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """sqrt(1 - correlation) of pairs of images over their overlap, (N,), at the shift (N, 2) where it is smallest.

    Images a (A, C, H, W) and b (B, C, H, W) are paired by the indices of_a and of_b (N,). The result is 0 for images
    that are equal up to brightness and contrast, and about 1 for unrelated ones. Shifts of b (down, right) run from
    -reach to reach pixels, reach below H and W; a[y, x] lies on b[y - down, x - right].
    """
    height, width = a.shape[-2:]
    # In float32 the correlations of near copies differ from 1 by rounding alone, so chance would pick among them.
    a, b = (x.double() - x.double().mean(dim=(1, 2, 3), keepdim=True) for x in (a, b))
    size = (height + reach, width + reach)  # no wrap-around at these lags
    spectrum = torch.fft.rfft2(a, s=size)[of_a] * torch.fft.rfft2(b, s=size).conj()[of_b]
    lags = torch.arange(-reach, reach + 1, device=a.device)
    products = torch.fft.irfft2(spectrum.sum(1), s=size)[:, lags][:, :, lags]  # (N, lags, lags)
    count = a.shape[1] * (height - lags.abs())[:, None] * (width - lags.abs())
    sums_a, squares_a = (sums[of_a] for sums in _overlap_sums(a, lags))
    sums_b, squares_b = (sums[of_b] for sums in _overlap_sums(b, -lags))
    spread_a = (squares_a - sums_a.square() / count).clamp(min=FAINT * count)
    spread_b = (squares_b - sums_b.square() / count).clamp(min=FAINT * count)
    correlation = (products - sums_a * sums_b / count) / (spread_a * spread_b).sqrt()
    highest, best = correlation.flatten(1).max(1)
    shifts = torch.stack([lags[best // len(lags)], lags[best % len(lags)]], dim=1)
    return (1 - highest).clamp(min=0).sqrt(), shifts


def unlikeness(a: Tensor, b: Tensor, shift: tuple[int, int]) -> float:
    """The value of `align` for two images (C, H, W) at one shift, to the last digit: exactly 0 for equal images."""
    ours, theirs = (part - part.mean() for part in overlapping(a.double(), b.double(), shift))
    least = FAINT * ours.numel()
    power = (ours.square().sum().clamp(min=least) * theirs.square().sum().clamp(min=least)).sqrt()
    return float((1 - (ours * theirs).sum() / power).clamp(min=0).sqrt())


def overlapping(a: Tensor, b: Tensor, shift: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The parts of a and b (C, H, W) that lie on each other when b is shifted by (down, right) pixels."""
    down, right = shift
    height, width = a.shape[-2:]
    rows_a, rows_b = slice(max(down, 0), height + min(down, 0)), slice(max(-down, 0), height + min(-down, 0))
    columns_a, columns_b = slice(max(right, 0), width + min(right, 0)), slice(max(-right, 0), width + min(-right, 0))
    return a[:, rows_a, columns_a], b[:, rows_b, columns_b]


def small(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) reduced to `size` and slightly smoothed, so that noise and subpixel shifts matter less."""
    x = images if images.shape[-2:] == size else F.adaptive_avg_pool2d(images, size)
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    return (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4


def _overlap_sums(x: Tensor, lags: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of x (B, C, H, W) and of its squares over its part of the overlap, (B, lags, lags): areas by corners."""
    height, width = x.shape[-2:]
    top, bottom = lags.clamp(min=0), height + lags.clamp(max=0)
    left, right = lags.clamp(min=0), width + lags.clamp(max=0)

    def area(values: Tensor) -> Tensor:
        table = F.pad(values.cumsum(1).cumsum(2), (1, 0, 1, 0))
        lower, upper = table[:, bottom], table[:, top]
        return lower[:, :, right] - lower[:, :, left] - upper[:, :, right] + upper[:, :, left]

    return area(x.sum(1)), area(x.square().sum(1))
