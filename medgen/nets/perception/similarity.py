"""Structural similarity of images and volumes, differentiable: a measure of quality and a loss term."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.errors import DataError
from medgen.nets.compute import exact_float32

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, 3.2; finest scale first
WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation of the Gaussian window in pixels (Wang et al. 2004, section III B)."""


def ssim(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) of a and b (B, C, [D,] H, W), one value per sample (B,).

    Means, variances and the covariance are taken under a Gaussian window that lies wholly inside the image.
    DataError if the image is smaller than the window.
    """
    return ssim_map(a, b, data_range).flatten(1).mean(1)


def ssim_map(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """The same at each place of the window: (B, C, [D',] H', W'), shorter by 10 along each axis."""
    return _ssim_and_contrast(a, b, data_range)[0]


def ms_ssim(a: Tensor, b: Tensor, data_range: float, *, weights: Sequence[float] = MS_SSIM_WEIGHTS) -> Tensor:
    """Multi-scale structural similarity (Wang et al. 2003, eq. 7) of a and b (B, C, [D,] H, W): one per sample (B,).

    There are as many scales as `weights`, finest first, each half as large as the one before: `scales_that_fit` says
    how many an image allows. Negative contrast terms count as 0, because their power is undefined.
    """
    channels: list[Tensor] = []  # of each scale, (B, C)
    for scale in range(len(weights)):
        if scale:
            a, b = _halve(a), _halve(b)
        similarity, contrast = _ssim_and_contrast(a, b, data_range)
        last = scale == len(weights) - 1
        channels.append((similarity if last else contrast).flatten(2).mean(2).relu())
    powers = torch.tensor(weights, dtype=channels[0].dtype, device=a.device)
    return torch.stack(channels).pow(powers.view(-1, 1, 1)).prod(0).mean(1)


def scales_that_fit(side: int) -> int:
    """How many scales an image with this shortest side allows, at most five; the coarsest must exceed the window."""
    return max(0, min(len(MS_SSIM_WEIGHTS), math.floor(math.log2(max(side, 1) / (WINDOW - 1)) - 1e-9) + 1))


@exact_float32()  # variances are small differences of large numbers
def _ssim_and_contrast(a: Tensor, b: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Maps (B, C, *S') of the whole index and of its contrast-structure part."""
    if a.shape != b.shape or a.ndim not in (4, 5):
        raise DataError(f"images of shapes {tuple(a.shape)} and {tuple(b.shape)}: expected two equal (B, C, [D,] H, W)")
    if min(a.shape[2:]) < WINDOW:
        sides = " x ".join(map(str, a.shape[2:]))
        raise DataError(f"images of {sides} are smaller than the SSIM window of {WINDOW}; use larger images")
    stability = ((0.01 * data_range) ** 2, (0.03 * data_range) ** 2)
    dtype = torch.promote_types(a.dtype, torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    blurred = _blur(torch.cat([a, b, a * a + b * b, a * b]))
    mean_a, mean_b, squares, product = blurred.chunk(4)
    means, mean_squares = mean_a * mean_b, mean_a.square() + mean_b.square()
    contrast = (2 * (product - means) + stability[1]) / (squares - mean_squares + stability[1])
    return (2 * means + stability[0]) / (mean_squares + stability[0]) * contrast, contrast


def _blur(x: Tensor) -> Tensor:
    """Gaussian filter (B, C, *S) along every axis of space, without padding."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - (WINDOW - 1) / 2
    kernel = torch.softmax(-offsets.square() / (2 * SIGMA**2), dim=0)
    for axis in range(2, x.ndim):
        x = _convolve(x, kernel, axis)
    return x


def _convolve(x: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """1-D convolution along `axis` as a product with a banded matrix, 10 x faster than a depthwise convolution."""
    size, window = x.shape[axis], len(kernel)
    band = x.new_zeros(size - window + 1, size)  # (out, in)
    rows = torch.arange(len(band), device=x.device)
    for tap in range(window):
        band[rows, rows + tap] = kernel[tap]
    return torch.movedim(torch.movedim(x, axis, -1) @ band.T, -1, axis)


def _halve(x: Tensor) -> Tensor:
    """2 x 2 (x 2) means; an odd side is padded with zeros that count, as the common implementations do."""
    padding = [side % 2 for side in x.shape[2:]]
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    return pool(x, kernel_size=2, padding=padding)
