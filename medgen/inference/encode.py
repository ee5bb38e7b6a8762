"""Images to latents, case by case, in constant memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec
import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.model_facts import VAEFacts, check_intensity
from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import Array, Case, Intensity, SetHeader
from medgen.config import Options
from medgen.diffusion.noise import sample_noise
from medgen.errors import DataError
from medgen.inference.models import Autoencoder
from medgen.nets.compute import Precision

GROUP = 4
"""Batches that are collected before the network runs: the last of them may be small, and costs little among four."""


class EncodeOptions(Options, frozen=True):
    """How `extract-latents` encodes. Batch size and read-ahead do not change the result beyond rounding."""

    sample: bool = False
    """A draw from the posterior for each slice, instead of its mean."""
    split: str | None = None
    """Only cases of this split."""
    precision: Precision = "auto"
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 8
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


@dataclass
class LatentStatistics:
    """Running mean and standard deviation of scaled latents, over all elements."""

    scale: float
    shift: float
    _count: int = 0
    _sum: float = 0.0
    _squares: float = 0.0

    def add(self, latents: Array) -> None:
        """Take in unscaled latents of any shape."""
        scaled = (latents.astype(np.float64) - self.shift) * self.scale
        self._count += scaled.size
        self._sum += float(scaled.sum())
        self._squares += float(np.square(scaled).sum())

    @property
    def mean(self) -> float:
        """Mean so far; 0 before the first."""
        return self._sum / self._count if self._count else 0.0

    @property
    def std(self) -> float:
        """Standard deviation so far."""
        return math.sqrt(max(self._squares / self._count - self.mean**2, 0.0)) if self._count else 0.0


@dataclass
class Encoder:
    """Turns image cases into latent cases. What it left out and how the latents spread is known afterwards."""

    vae: Autoencoder
    intensity: Intensity  # of the images
    options: EncodeOptions
    refused: Callable[[DataError], None] | None = None
    """Called with the reason for each case left out; without it the first bad case ends the work."""
    statistics: LatentStatistics = field(init=False)

    def __post_init__(self) -> None:
        self.statistics = LatentStatistics(self.vae.facts.latent_scale, self.vae.facts.latent_shift)

    def encode(self, cases: Iterable[Case]) -> Iterator[Case]:
        """Latent cases in the order of `cases`; vector, mask, label, text and geometry are carried over.

        Slices of neighbouring cases share a batch. Raises DataError naming case and slice for values that are not
        finite.
        """
        for group in self._groups(cases):
            images = np.concatenate([case["image"] for case in group])  # (N, C, H, W)
            noise_keys = [f"{case.id}/{index}" for case in group for index in range(len(case))]
            latents = self._encode_slices(images, noise_keys)
            start = 0
            for case in group:
                part = latents[start : start + len(case)]
                start += len(case)
                if self._accept(case, part):
                    self.statistics.add(part)
                    arrays = {name: array for name, array in case.arrays.items() if name != "image"}
                    yield replace(case, arrays={**arrays, "latent": part})

    def _groups(self, cases: Iterable[Case]) -> Iterator[list[Case]]:
        """Neighbouring cases that fill some batches together; a case whose image cannot be encoded stays out."""
        group: list[Case] = []
        for case in cases:
            try:
                check_image(case, self.vae)
            except DataError as error:
                self._refuse(error)
                continue
            if group and group[0]["image"].shape[1:] != case["image"].shape[1:]:
                yield group
                group = []
            group.append(case)
            if sum(map(len, group)) >= GROUP * self.options.batch_size:
                yield group
                group = []
        if group:
            yield group

    def _encode_slices(self, images: Array, noise_keys: list[str]) -> Array:
        """(N, C, H, W) stored values -> (N, c, h, w) float32."""
        parts: list[Tensor] = []
        for start in range(0, len(images), self.options.batch_size):
            rows = slice(start, start + self.options.batch_size)
            normalized = self.intensity.normalized(images[rows])
            posterior = self.vae.encode(torch.from_numpy(normalized))
            latents = posterior.mean
            if self.options.sample:
                noise = _noise(self.options.seed, noise_keys[rows], latents.shape[1:])
                latents = latents + torch.exp(0.5 * posterior.logvar) * noise.to(latents.device)
            parts.append(latents.float().cpu())
        array: Array = torch.cat(parts).contiguous().numpy()
        return array

    def _accept(self, case: Case, latents: Array) -> bool:
        finite = np.isfinite(latents).all(axis=(1, 2, 3))
        if finite.all():
            return True
        self._refuse(
            DataError(
                f"case {case.id}, slice {int(np.argmin(finite))}: the latent is not finite; "
                "check the image for NaN and the VAE for divergence"
            )
        )
        return False

    def _refuse(self, error: DataError) -> None:
        if self.refused is None:
            raise error
        self.refused(error)


def check_image(case: Case, vae: Autoencoder) -> None:
    """DataError naming the case (and slice) unless its image is finite and fits the VAE."""
    image = case["image"]
    channels, height, width = image.shape[1:]
    config = vae.network.config
    if channels != config.in_channels:
        raise DataError(f"case {case.id}: {channels} image channels, but the VAE takes {config.in_channels}")
    if height % config.factor or width % config.factor:
        raise DataError(
            f"case {case.id}: {height} x {width} pixels do not fit the VAE: sides must be multiples of "
            f"{config.factor}; resize in preprocess"
        )
    if image.dtype.kind == "f":
        finite = np.isfinite(image).all(axis=(1, 2, 3))
        if not finite.all():
            raise DataError(f"case {case.id}, slice {int(np.argmin(finite))}: the image holds NaN or infinity")


def check_window(images: SetHeader, facts: VAEFacts) -> Intensity:
    """The intensity of a set's images; DataError for a set of another kind, or of another window than the VAE's."""
    if images.kind != "image" or images.intensity is None:
        raise DataError(f"the input is a set of kind '{images.kind}'; extract-latents needs images")
    return check_intensity(images, facts)


def latent_header(images: SetHeader, facts: VAEFacts, vae_digest: str, provenance: Provenance) -> SetHeader:
    """The header of the latent set made from a set with header `images`."""
    return SetHeader(
        kind="latent",
        provenance=provenance,
        intensity=images.intensity,
        vector_fields=images.vector_fields,
        latent_scale=facts.latent_scale,
        latent_shift=facts.latent_shift,
        vae_digest=vae_digest,
        notes=images.notes,
    )


def _noise(seed: int, keys: list[str], shape: torch.Size) -> Tensor:
    """Noise that depends on seed, case and slice alone, so that shards and batches agree."""
    digests = [hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys]
    return sample_noise(seed, [int.from_bytes(digest, "little") for digest in digests], shape)
