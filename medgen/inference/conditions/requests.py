"""What each sample is asked to show: a vector, a mask, a text, several of them, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import torch

from medgen.artifacts.label_maps import one_hot
from medgen.artifacts.schema import Array
from medgen.inference.conditions.masks import AskedMasks
from medgen.inference.conditions.retrieval import Retrieved
from medgen.inference.conditions.texts import AskedTexts
from medgen.inference.conditions.vectors import Vectors
from medgen.models.condition import condition_of
from medgen.nets.condition import NOTHING, Condition


@dataclass(frozen=True)
class Requests:
    """What each of `count` samples is asked to show; a part that is None is not asked for."""

    count: int
    vectors: Vectors | None = None
    """(count, K)."""
    masks: AskedMasks | None = None
    """A label map for each sample."""
    texts: AskedTexts | None = None
    """A prompt for each sample, and its modality."""
    negative: Vectors | None = None
    """(K,), the condition that guidance leads away from in place of the null condition."""
    retrieved: Retrieved | None = None
    """The confirmed cases that were found for each prompt, and what they lend."""

    @property
    def empty(self) -> bool:
        """Whether nothing is asked for."""
        return self.vectors is None and self.masks is None and self.texts is None

    def arrays(self, indices: Sequence[int]) -> dict[str, Array]:
        """The conditions of these samples as a set stores them: vector (B, K), mask (B, 1, H, W) uint8."""
        arrays: dict[str, Array] = {}
        if self.vectors is not None:
            arrays["vector"] = self.vectors[list(indices)].astype(np.float32)
        if self.masks is not None:
            arrays["mask"] = np.stack([self.masks[index] for index in indices])[:, None]
        return arrays

    def told(self, indices: Sequence[int]) -> dict[str, list[str]]:
        """The texts of these samples as their cases store them: text and modality, where asked."""
        return {} if self.texts is None else self.texts.told(indices)

    def condition(self, indices: Sequence[int], arrays: Mapping[str, Array], mask_names: Sequence[str]) -> Condition:
        """The network's input for these samples, given their `arrays`; the classes of masks are `mask_names`."""
        if not arrays and self.texts is None:
            return NOTHING
        parts = dict(arrays)
        if "mask" in parts:
            parts["mask"] = one_hot(parts["mask"], mask_names)
        tensors = {name: torch.from_numpy(part) for name, part in parts.items()}
        return condition_of(tensors if self.texts is None else tensors | self.texts.parts(indices))

    def unwanted(self, condition: Condition) -> Condition | None:
        """What guidance leads away from, for samples with this condition; None: the null condition."""
        changed: dict[str, torch.Tensor] = {}
        if self.negative is not None and condition.vector is not None:
            changed["vector"] = torch.from_numpy(self.negative).expand_as(condition.vector)
        if self.texts is not None:
            changed |= self.texts.negative_parts(len(condition))
        return replace(condition, **changed) if changed else None

    def warps(self) -> list[dict[str, Any]]:
        """How masks were warped from others, for the samples where they were; for the report."""
        if self.masks is None:
            return []
        return [
            {"sample": index, "mask": self.masks.order[index], **msgspec.to_builtins(warp)}
            for index, warp in self.masks.warps.items()
        ]

    def described(self, fields: Sequence[str]) -> dict[str, Any]:
        """For the provenance: vectors by field name if all samples share them, else digests."""
        told: dict[str, Any] = {}
        if self.vectors is not None:
            told["conditions"] = _told(fields, self.vectors)
        if self.masks is not None:
            told["masks"] = self.masks.described()
        if self.texts is not None:
            told |= self.texts.described()
        if self.negative is not None:
            told["negative"] = _told(fields, self.negative[None])
        if self.retrieved is not None:
            told["retrieved"] = self.retrieved.described()
        return told


def _told(fields: Sequence[str], vectors: Vectors) -> dict[str, float] | str:
    if (vectors == vectors[0]).all():
        return {name: round(float(value), 6) for name, value in zip(fields, vectors[0], strict=True)}
    return hashlib.sha256(vectors.tobytes()).hexdigest()[:16]
