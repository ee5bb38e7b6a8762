"""Selectors: how experts would rate images, given what these were asked to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from medgen.artifacts.label_maps import mask_names
from medgen.artifacts.model_file import Model
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.stacks import Stack
from medgen.errors import DataError, UsageError
from medgen.models.facts import SelectorFacts
from medgen.models.trained import ROWS, FrozenVAE, Trained
from medgen.nets.compute import exact_float32
from medgen.nets.perception.features import FixedFeatures
from medgen.nets.perception.requested import REGION, Requested, discs, region_features, request_features
from medgen.nets.scorer import Scorer

GRID = 4
"""Cells across and down in which latents and colours are averaged."""


class _Scorer(Trained[Scorer, SelectorFacts]):
    kind = "selector"


@dataclass(frozen=True)
class Describer:
    """Features by which images and what they were asked to show are judged: built in, or latents of a VAE."""

    vae: FrozenVAE | None
    classes: int
    """Of masks, with the background."""
    device: torch.device
    place: tuple[str, ...] = ()
    """Fields of the vectors, if these say where to look."""

    @property
    def regions(self) -> int:
        """Number of the last features that are about the regions asked for."""
        return REGION * (self.classes - 1 + bool(self.place))

    @cached_property
    def _features(self) -> FixedFeatures:
        return FixedFeatures().to(self.device)

    @property
    def digest(self) -> str:
        """Of the VAE, or of the built-in features."""
        return self.vae.model.digest if self.vae is not None else self._features.digest

    @torch.inference_mode()
    @exact_float32()
    def __call__(self, images: Tensor, requested: Requested) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [-1, 1] and their requests -> features (B, F) and (B, R).

        A row does not depend on the others of its batch.
        """
        count = len(images)
        images = images.to(self.device)
        padded = torch.cat([images, images[-1:].expand(-count % ROWS, *images.shape[1:])])
        if self.vae is None:
            parts = [self._features.pooled(padded)[:count]]
            if images.shape[1] > 1:
                parts.append(F.adaptive_avg_pool2d(images, GRID).flatten(1))
        else:
            latents = self.vae.latents(padded)[:count]
            parts = [F.adaptive_avg_pool2d(latents, GRID).flatten(1), latents.std(dim=(2, 3))]
            parts.append(F.adaptive_avg_pool2d(latents.abs(), GRID).flatten(1))
        if requested.mask is not None:
            parts.append(region_features(images, requested.mask, self.classes))
        if requested.vector is not None and self.place:
            disc = discs(requested.vector, self.place, *images.shape[-2:])
            parts.append(region_features(images, disc, 2))
        asked = request_features(requested, self.classes, count)
        return torch.cat(parts, dim=1), asked.to(self.device)


@dataclass(frozen=True)
class Selector:
    """A trained selector, ready to score."""

    scorer: _Scorer
    describe: Describer

    @classmethod
    def load(cls, path: Path, device: torch.device, vae: FrozenVAE | None = None, *, weak: bool = False) -> Self:
        """The selector in a file; `vae` is the VAE by whose latents it judges, if it does.

        DataError for another file, and for a selector that says nothing, unless `weak`; UsageError for a VAE missing
        or too many.
        """
        scorer = _Scorer.load(path, device, "float32", tuned=False)
        facts = scorer.facts
        if vae is not None and not facts.vae_digest:
            raise UsageError(f"{path} judges by built-in features, not by latents; leave out --vae")
        if vae is None and facts.vae_digest:
            raise UsageError(f"{path} judges by the latents of a VAE; give it with --vae")
        describe = Describer(vae, max(len(facts.mask_names), 1), device, facts.vector_fields if facts.place else ())
        if describe.digest != (facts.vae_digest or facts.features):
            told = f"of another VAE than {vae.model.path}" if vae else "that this version no longer has"
            raise DataError(f"{path}: judges by features {told}; train the selector again")
        if not facts.says and not weak:
            raise DataError(
                f"{path}: its scores mean nothing: they do not follow unseen ratings ({facts.overall}); "
                "collect more ratings and train it again, or use it as it is with --weak"
            )
        return cls(scorer, describe)

    @property
    def model(self) -> Model:
        """Its file."""
        return self.scorer.model

    @property
    def facts(self) -> SelectorFacts:
        """What its file says."""
        return self.scorer.facts

    def check(self, header: SetHeader, arrays: Mapping[str, Stack], name: str) -> Intensity:
        """The intensity of a case of the set called `name`; DataError unless its images are like those rated."""
        facts = self.facts
        if header.kind != "image" or header.intensity is None:
            raise DataError(f"{name}: is a set of kind '{header.kind}'; a selector judges images, so decode it first")
        shape = arrays["image"].shape[1:]
        if shape != facts.shape:
            raise DataError(
                f"{name}: its images are {_size(shape)}, but {self.model.path} learned from images of "
                f"{_size(facts.shape)}; preprocess or generate both the same way, or train another selector"
            )
        ours, theirs = header.intensity, facts.intensity
        if (ours.unit, ours.window) != (theirs.unit, theirs.window):
            raise DataError(
                f"{name}: its window is {ours.window} {ours.unit}, that of the rated images {theirs.window} "
                f"{theirs.unit}; preprocess both the same way, or train another selector"
            )
        if "vector" in facts.parts and header.vector_fields != facts.vector_fields:
            raise DataError(f"{name}: its vector fields are not those that {self.model.path} learned from")
        if "mask" in facts.parts and mask_names(header) != facts.mask_names:
            raise DataError(f"{name}: its masks have other classes than those that {self.model.path} learned from")
        return ours

    def scores(self, images: Tensor, requested: Requested) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> the rating to expect in each aspect, (B, A), from 1 to 5.

        DataError if `requested` lacks a part that the selector learned from; others are not looked at.
        """
        return self.judged(*self.describe(images, self.relevant(requested, len(images))))

    def score(self, images: Tensor, requested: Requested, aspect: str = "") -> Tensor:
        """As `scores`, of one aspect, or of all that the selector can tell taken together, (B,)."""
        return self.combined(self.scores(images, requested), aspect)

    @torch.inference_mode()
    @exact_float32()
    def judged(self, image: Tensor, request: Tensor) -> Tensor:
        """Features of `describe` -> the rating to expect in each aspect, (B, A)."""
        scores: Tensor = self.scorer.network(image, request)
        return scores

    def combined(self, scores: Tensor, aspect: str = "") -> Tensor:
        """Scores (B, A) -> those of one aspect, or the mean over the aspects that count, (B,)."""
        self.known(aspect)
        chosen = [aspect] if aspect else list(self.facts.combined)
        return scores[:, [self.facts.aspects.index(one) for one in chosen]].mean(dim=1)

    def known(self, aspect: str) -> None:
        """UsageError for an aspect that it did not learn; "" is all of them together."""
        if aspect and aspect not in self.facts.aspects:
            told = ", ".join(self.facts.aspects)
            raise UsageError(f"{self.model.path} knows no aspect '{aspect}'; it learned {told}")

    def relevant(self, requested: Requested, count: int) -> Requested:
        """The parts of `count` requests that the selector learned from; DataError if one but the modality is missing.

        Where no request of a batch names a modality, it is "" for each, as in a batch where others do.
        """
        parts = {name: getattr(requested, name) for name in self.facts.parts}
        if "modality" in parts and parts["modality"] is None:
            parts["modality"] = [""] * count
        if missing := [name for name, part in parts.items() if part is None]:
            raise DataError(f"{self.model.path} also judges images by their {missing[0]}, and there is none here")
        return Requested(**parts)


def requested_of(case: Case, parts: Sequence[str], slices: slice) -> Requested:
    """The named parts of what some slices of a case were asked to show; DataError if one is missing.

    A modality may be left out of a request, and is then "".
    """
    found: dict[str, object] = {}
    for name in parts:
        if name in ("vector", "mask"):
            found[name] = torch.from_numpy(case.stack(name)[slices])
        else:
            values = getattr(case, name)[slices]
            if name == "text" and not values:
                raise DataError(f"case {case.id}: has no text, but the selector judges agreement with texts")
            found[name] = list(values) if values else [""] * len(range(*slices.indices(len(case))))
    return Requested(**found)  # type: ignore[arg-type]


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width} x {height} pixels" + (f" with {channels} channels" if channels > 1 else "")
