"""Likeness of image and text to a model of both, such as CLIP (Radford et al. 2021; Hessel et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError, InputMissingError
from medgen.evaluation.agreement.attributes import Rows
from medgen.evaluation.intervals import mean_interval
from medgen.evaluation.section import Table, interval, number
from medgen.nets.compute import exact_float32
from medgen.nets.text.pretrained import transformers
from medgen.reporting import Advance, unseen

BATCH = 32
SIGLIP = "siglip"
"""Beginning of the types of models that take the state of the last place for that of the text, and have learned it from
texts padded to the full length (Zhai et al. 2023)."""


class ImageTextModel:
    """A model of `transformers` that puts images and texts into one space, read from a local folder."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        if not folder.is_dir():
            raise InputMissingError(f"--clip {folder}: no such folder")
        library = transformers()
        try:
            # Weights of pickles could run programs, and nothing is fetched.
            given: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
            model = library.AutoModel.from_pretrained(folder, **given)  # else in the type that the file happens to have
            self._tokenizer: Any = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._pixels: Any = library.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, use_fast=False
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"--clip {folder}: cannot be read as a model of images and texts: {reason}") from None
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise DataError(f"--clip {folder}: {type(model).__name__} does not compare images with texts; give a CLIP")
        self._model: Any = model.to(device).eval().requires_grad_(False)
        longest = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None)
        told = self._tokenizer.model_max_length
        self.length: int = min(told, longest or told)
        """Pieces of words, marks included, that it reads of a text."""
        self._padded: dict[str, Any] = {"padding": True}
        if model.config.model_type.startswith(SIGLIP):
            self._padded = {"padding": "max_length", "return_attention_mask": False}
        self._device = device

    @torch.inference_mode()
    @exact_float32()
    def of_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, d) of images (B, C, H, W) in [-1, 1], grey or colour."""
        bytes_ = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        pixels = bytes_.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        seen = self._pixels(images=list(pixels), return_tensors="pt").to(self._device)
        return _unit(self._model.get_image_features(**seen))

    @torch.inference_mode()
    @exact_float32()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, d) of texts, which are cut where they are too long."""
        settings = {**self._padded, "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        return _unit(self._model.get_text_features(**self._tokenizer(list(texts), **settings).to(self._device)))

    def cut(self, texts: Sequence[str]) -> int:
        """How many of these texts are too long to be read to their end."""
        pieces = self._tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
        return sum(len(one) > self.length for one in pieces)


def clip_scores(
    model: ImageTextModel, stored: StoredSet, texts: Sequence[str], cases: Rows, seed: int, advance: Advance = unseen
) -> dict[str, Any] | None:
    """100 times the cosine of each image and its text: mean and interval, and the mean of all other pairs.

    None for fewer than two images with texts. Images that are not finite are left out.
    """
    intensity = stored.header.intensity
    if intensity is None:
        raise DataError("the set does not say what its image values mean (no intensity); preprocess it again")
    images, words, kept = [], [], []
    for start in range(0, stored.slices, BATCH):
        rows = np.arange(start, min(start + BATCH, stored.slices))
        advance(len(rows))
        values = torch.from_numpy(intensity.normalized(stored.read("image", rows)))
        good = torch.isfinite(values).flatten(1).all(1).numpy() & np.array([bool(texts[row]) for row in rows.tolist()])
        if good.any():
            images.append(model.of_images(values[torch.from_numpy(good)]))
            words.append(model.of_texts([texts[row] for row in rows[good].tolist()]))
            kept.append(rows[good])
    if sum(map(len, kept)) < 2:
        return None
    cosines = 100.0 * torch.cat(images) @ torch.cat(words).T
    own = cosines.diagonal()
    count = len(own)
    others = float((cosines.sum() - own.sum()) / (count * (count - 1)))
    found = mean_interval(own.numpy().astype(np.float64), cases[np.concatenate(kept)], seed=seed)
    return {**(found or {"value": float(own.mean()), "low": None, "high": None}), "shuffled": others, "images": count}


def clip_table(samples: dict[str, Any] | None, real: dict[str, Any] | None) -> Table:
    """Samples and real images side by side."""
    parts = {"samples": samples, "real": real}
    rows = [[name, interval(one), number(one["shuffled"]), str(one["images"])] for name, one in parts.items() if one]
    note = "100 times the cosine of image and text. Only the difference from the score of other texts is meaningful."
    return Table("similarity of image and text (CLIP score)", ("", "its own text", "other texts", "images"), rows, note)


def _unit(features: Any) -> Tensor:
    vectors = features if isinstance(features, Tensor) else features.pooler_output
    return F.normalize(vectors.double().cpu(), dim=-1)
