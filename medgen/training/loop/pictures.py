"""Contact sheets of what a model makes in the course of its training: a row of pictures for each thing it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.outputs.whole import atomic_file
from medgen.imaging.pictures.contact_sheet import Tile, draw_sheet
from medgen.imaging.pictures.preview import Pixels, resize, resize_mask
from medgen.training.loop.learner import Shown

COUNT = 8
"""Samples on a sheet."""
SIDE = 144
"""Pixels of a picture's longer side."""
SPREAD = 2.5
"""Values of latents that are black and white; networks see latents whose deviation is about 1."""


@dataclass(frozen=True)
class Pictures:
    """The folder of the sheets of one training."""

    folder: Path

    def write(self, done: int, steps: int, shown: Shown, told: Sequence[str]) -> None:
        """The sheet after `done` of `steps` steps; `told` says in words what each sample was asked to show."""
        tiles = [
            tile
            for number, (name, images) in enumerate(shown.rows.items())
            for tile in _tiles(images, name, shown.outlines, told if number == 0 else [""] * len(images))
        ]
        columns = len(next(iter(shown.rows.values())))
        sheet = draw_sheet(tiles, f"step {done} of {steps}{shown.note and f' · {shown.note}'}", columns)
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.folder / f"step-{done:0{len(str(steps))}d}.png", force=True) as temporary:
            temporary.write_bytes(sheet)


def pictures_path(output: Path) -> Path:
    """Folder of the sheets of the training that makes `output`."""
    return output.with_name(f"{output.name}.samples")


def _tiles(images: Tensor, name: str, outlines: Tensor | None, told: Sequence[str]) -> list[Tile]:
    """A row of tiles of images (B, C, H, W) in [-1, 1], or of latents: any other number of channels than 1 and 3."""
    height, width = images.shape[2:]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    latents = images.shape[1] not in (1, 3)
    pixels = _as_bytes(images[:, [0, 1, min(2, images.shape[1] - 1)]] / SPREAD if latents else images)
    marks = [None] * len(images) if outlines is None else outlines.bool().any(1).cpu().numpy()
    return [
        Tile(
            resize(picture, size, smooth=not latents),
            [name, *([text] if text else [])],
            outline=None if mask is None else resize_mask(mask, size),
        )
        for picture, mask, text in zip(pixels, marks, told, strict=True)
    ]


def _as_bytes(images: Tensor) -> Pixels:
    """(N, C, H, W) in [-1, 1] -> (N, H, W) grey or (N, H, W, 3) colour; what is not finite is black."""
    values = torch.nan_to_num(images.float(), nan=-1.0).clamp(-1.0, 1.0)
    pixels = ((values + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return np.ascontiguousarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
