"""Pairs of images and masks with known truth: discs on a noisy ground."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set
from medgen.reporting import Silent

GREY = Intensity(unit="grey value", window=(0.0, 255.0))
NAMES = ("background", "disc")
SIDE = 32


class Made(NamedTuple):
    """Images (N, 1, SIDE, SIDE) and label maps (N, 1, SIDE, SIDE)."""

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint8]


def disc(side: int, centre: tuple[float, float], radius: float) -> npt.NDArray[np.bool_]:
    """Pixels whose centres lie in a disc; places in pixels, down and across."""
    down, across = np.mgrid[:side, :side]
    inside: npt.NDArray[np.bool_] = (down - centre[0]) ** 2 + (across - centre[1]) ** 2 <= radius**2
    return inside


def made(count: int, seed: int, contrasts: Sequence[float] = (70.0,), empty: int = 0) -> Made:
    """A disc in each image, of the contrasts in turn; the last `empty` images have none."""
    random = np.random.default_rng(seed)
    images = random.normal(110, 15, (count, 1, SIDE, SIDE))
    masks = np.zeros(images.shape, np.uint8)
    for number in range(count - empty):
        radius = random.uniform(4, 7)
        inside = disc(SIDE, tuple(random.uniform(radius, SIDE - radius, 2)), radius)
        masks[number, 0, inside] = 1
        images[number, 0, inside] += contrasts[number % len(contrasts)]
    return Made(images.clip(0, 255).astype(np.uint8), masks)


def write(
    path: Path,
    pairs: Made,
    splits: Sequence[str],
    *,
    names: tuple[str, ...] = NAMES,
    masks: bool = True,
    prefix: str | None = None,
    **facts: Any,
) -> Path:
    """A set with a case a pair; cases are called after the file unless `prefix` is given."""
    header = SetHeader("image", derive("preprocess", {"name": path.stem}), intensity=GREY, mask_names=names)
    with create_set(path, header, force=True) as writer:
        for number, split in enumerate(splits):
            arrays = {"image": pairs.images[number : number + 1]}
            if masks:
                arrays["mask"] = pairs.masks[number : number + 1]
            writer.write(Case(f"{prefix or path.stem}{number}", arrays, split, **facts))
    return path


silent = Silent().progress
"""Progress that nobody sees."""
