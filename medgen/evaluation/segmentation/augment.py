"""Classical augmentation: the same random geometry for image and mask, and another intensity for the image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.evaluation.segmentation.options import SegmenterOptions


def augment(
    images: Tensor, labels: Tensor, options: SegmenterOptions, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Flip, rotate, scale and shift images (B, C, H, W) in [-1, 1] and labels (B, H, W) alike; change the gain.

    Pixels from outside repeat the image's margin, and the mask's class there.
    """
    height, width = images.shape[-2:]
    grid = F.affine_grid(
        torch.from_numpy(transforms(len(images), height / width, options, random)).float(),
        [len(images), 1, height, width],
        align_corners=False,
    )
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    classes = F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    gains = random.uniform(-options.gain, options.gain, (2, len(images), 1, 1, 1))
    contrast, brightness = torch.from_numpy(gains).float()
    return (moved * (1 + contrast) + brightness).clamp(-1, 1), classes[:, 0].to(labels.dtype)


def transforms(
    count: int, aspect: float, options: SegmenterOptions, random: np.random.Generator
) -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """Random affine maps (count, 2, 3) from the view to the image, both in [-1, 1] along each side.

    `aspect` is height / width of the image: rotations are of the image, not of the square.
    """
    angle = np.deg2rad(random.uniform(-options.rotation, options.rotation, count))
    zoom = 1 / (1 + random.uniform(-options.scale, options.scale, count))
    mirrored = np.where(random.random((2, count)) < 0.5, -1.0, 1.0)
    if options.flips not in ("left-right", "both"):
        mirrored[0] = 1.0
    if options.flips not in ("up-down", "both"):
        mirrored[1] = 1.0
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    maps = np.empty((count, 2, 3))
    maps[:, 0, 0], maps[:, 0, 1] = cos * mirrored[0], -sin * aspect * mirrored[1]
    maps[:, 1, 0], maps[:, 1, 1] = sin / aspect * mirrored[0], cos * mirrored[1]
    maps[:, :, 2] = 2 * random.uniform(-options.shift, options.shift, (count, 2))
    return maps
