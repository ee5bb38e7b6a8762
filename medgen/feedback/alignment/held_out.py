"""Held-out real images, and how far from them a policy draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.schema import NO_SPLIT, Intensity
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.features.extractors import builtin_extractor
from medgen.evaluation.fidelity.frechet import frechet_between
from medgen.models.facts import DenoiserFacts

BATCH = 64


def check_images(stored: StoredSet, facts: DenoiserFacts, shape: tuple[int, ...], name: str) -> Intensity:
    """What the values of a set mean; DataError unless it holds images like the model's, of `shape` (C, H, W)."""
    intensity = stored.header.intensity
    if stored.header.kind != "image" or intensity is None:
        raise DataError(f"{name} is a set of kind '{stored.header.kind}'; give the images themselves")
    if (intensity.unit, intensity.window) != (facts.intensity.unit, facts.intensity.window):
        raise DataError(f"{name} has another window than the images that the model was trained on")
    theirs = stored.arrays()["image"][0]
    if tuple(theirs) != tuple(shape):
        raise DataError(f"{name} has images of shape {theirs}, and the model makes {shape}")
    return intensity


class HeldOut:
    """Real images that the model was not trained on, as the built-in features see them."""

    def __init__(
        self, stored: StoredSet, facts: DenoiserFacts, shape: tuple[int, ...], device: torch.device,
        warn: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Read the slices outside the training split; all, with a warning, if there are no others.

        DataError unless they are images of the model's: of `shape` (C, H, W), in its window.
        """
        intensity = check_images(stored, facts, shape, "the reference")
        rows = [row for row in stored.cases if not row.synthetic]
        held_out = [row for row in rows if row.split not in ("train", NO_SPLIT)]
        if not held_out:
            warn("the reference has no split besides 'train', so the Frechet distance is to images that may be known")
        slices = [index for row in held_out or rows for index in range(row.start, row.start + row.count)]
        self.slices = slices
        """Their places in the reference."""
        if len(slices) < 2:
            raise DataError(f"the reference has {len(slices)} real images to compare with; give more")
        self._extractor = builtin_extractor(device)
        parts = [
            self._features(torch.from_numpy(intensity.normalized(stored.read("image", slices[start : start + BATCH]))))
            for start in range(0, len(slices), BATCH)
        ]
        self._real = torch.cat(parts)
        if not np.isfinite(self._real.numpy()).all():
            raise DataError("the reference holds image values that are not finite")

    def distance(self, images: list[Tensor]) -> float:
        """Frechet distance of batches of images (B, C, H, W) in [-1, 1]."""
        return frechet_between(torch.cat([self._features(batch) for batch in images]), self._real)

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self._extractor.pooled(images.float().clamp(-1, 1)).cpu()
