"""An image descriptor that shifts hardly change: the amplitudes of its low spatial frequencies.

A shift changes the phases of a Fourier transform but not the amplitudes (used for registration by Reddy & Chatterji
1996). A window hides the borders, where new content enters; the logarithm gives weight to fine detail. Mirroring left
to right, or top to bottom, reverses the rows of the amplitudes; doing both leaves them unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 32
KEPT = 12
"""Frequencies along each axis, 0 included."""


def spectrum(images: Tensor) -> Tensor:
    """Images (B, C, H, W) -> log amplitudes (B, 2 * KEPT - 1, KEPT), rows from negative to positive frequency."""
    x = F.adaptive_avg_pool2d(images.mean(dim=1), SIDE)
    line = torch.hann_window(SIDE + 2, periodic=False, dtype=x.dtype, device=x.device)[1:-1]
    window = torch.outer(line, line)
    mean = (x * window).sum(dim=(1, 2), keepdim=True) / window.sum()
    amplitudes = torch.fft.rfft2((x - mean) * window).abs()[:, :, :KEPT]
    return torch.cat([amplitudes[:, 1 - KEPT :], amplitudes[:, :KEPT]], dim=1).log1p()


def mirrored(amplitudes: Tensor) -> Tensor:
    """The `spectrum` of the images mirrored along one axis."""
    return amplitudes.flip(1)
