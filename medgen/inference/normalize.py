"""Images to their nearest normal version: add noise part of the way, and let the network denoise them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import Array, Case, Intensity, SetHeader
from medgen.artifacts.synthetic import altered
from medgen.config import convert
from medgen.diffusion.options import Objective, ScheduleConfig
from medgen.diffusion.samplers import StepNoise
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.errors import DataError
from medgen.inference.encode import check_finite, check_image
from medgen.inference.generate import objective_of
from medgen.inference.normalize_options import NormalizeOptions
from medgen.inference.slices import Refused, grouped, slice_keys, slice_noise
from medgen.models.trained import FrozenVAE, NormalizerNetwork, check_pair


class Version(Protocol):
    """Makes normal versions of images."""

    @property
    def parts(self) -> tuple[FrozenVAE | NormalizerNetwork, ...]:
        """Its networks; the facts of the first say what image values mean."""

    def check(self, case: Case) -> None:
        """DataError naming the case if its images do not fit."""

    def __call__(self, images: Tensor, keys: list[str]) -> Tensor:
        """Normal versions of images (B, C, H, W) in [-1, 1], of the same shape; noise depends on each image's key."""


@dataclass(frozen=True)
class Normalizer:
    """A network with two heads, and the VAE whose latents it works on; None in image space."""

    network: NormalizerNetwork
    vae: FrozenVAE | None
    options: NormalizeOptions

    def __post_init__(self) -> None:
        check_pair(self.network, self.vae)
        for head in self.options.heads:
            self._path(head)

    @property
    def parts(self) -> tuple[FrozenVAE | NormalizerNetwork, ...]:
        """Its networks."""
        return (self.network,) if self.vae is None else (self.network, self.vae)

    def check(self, case: Case) -> None:
        """DataError naming the case unless its images are finite and have the size of the training images."""
        wanted = self.network.facts.shape
        if self.vae is not None:
            check_image(case, self.vae)
            config = self.vae.network.config
            wanted = (config.in_channels, *(side * config.factor for side in wanted[1:]))
        else:
            check_finite(case)
        if case["image"].shape[1:] != wanted:
            told, needed = (" x ".join(map(str, shape)) for shape in (case["image"].shape[1:], wanted))
            raise DataError(f"case {case.id}: images of {told}, but the model was trained on {needed}")

    def __call__(self, images: Tensor, keys: list[str]) -> Tensor:
        """Normal versions of images (B, C, H, W): the mean over heads and draws.

        The mean is of latents, so that the VAE, which takes most of the time, decodes once.
        """
        options, x0 = self.options, self._encode(images)
        total = torch.zeros_like(x0)
        for draw in range(options.draws):
            noise = slice_noise(options.seed, keys, x0.shape[1:], stream=draw).to(x0.device)

            def fresh(step: int, draw: int = draw) -> Tensor:
                return slice_noise(options.seed, [f"{key}/{draw}" for key in keys], x0.shape[1:], 1 + step)

            for head in options.heads:
                total += self._denoised(head, x0, noise, fresh)
        return self._decode(total / (options.draws * len(options.heads))).to(images.device)

    def _denoised(self, head: str, x0: Tensor, noise: Tensor, fresh: StepNoise) -> Tensor:
        """x0 (B, c, h, w) after noise and denoising by one head, which may add fresh noise."""
        schedule, objective, start = self._path(head)
        times = torch.full((len(x0),), start, dtype=torch.float64, device=x0.device)
        return sample(
            lambda x, t: self.network(x, t, head=head),
            schedule.add_noise(x0, noise, times),
            schedule,
            objective,
            self.options.of(head),
            start=start,
            noise=fresh,
            clip=(-1.0, 1.0) if self.vae is None else None,
        )

    def _path(self, head: str) -> tuple[Schedule, Objective, float]:
        """A head's schedule and objective, and the time of the noise level on it; ConfigError if it has none."""
        facts = self.network.facts
        config, objective = facts.schedule, objective_of(facts.objective)
        if head == "flow":
            config, objective = facts.flow_schedule, "flow"
        schedule = Schedule(convert(ScheduleConfig, config, f"the model's schedule of the head '{head}'"))
        return schedule, objective, schedule.time_of(self.options.noise_level)

    def _encode(self, images: Tensor) -> Tensor:
        return images.to(self.network.device) if self.vae is None else self.vae.latents(images)

    def _decode(self, x0: Tensor) -> Tensor:
        return x0 if self.vae is None else self.vae.images(x0)


@dataclass(frozen=True)
class VAEReconstruction:
    """The VAE's plain reconstruction of an image: the baseline that every normalizer has to beat."""

    vae: FrozenVAE

    @property
    def parts(self) -> tuple[FrozenVAE | NormalizerNetwork, ...]:
        """The VAE."""
        return (self.vae,)

    def check(self, case: Case) -> None:
        """DataError naming the case if the VAE cannot take its images."""
        check_image(case, self.vae)

    def __call__(self, images: Tensor, keys: list[str]) -> Tensor:
        """Images (B, C, H, W) as the VAE decodes their mean latents."""
        return self.vae.reconstruct(images)


def normalize(
    cases: Iterable[Case],
    version: Version,
    intensity: Intensity,
    batch_size: int,
    refused: Refused | None = None,
) -> Iterator[Case]:
    """The cases in order, with normal versions of their images in the same stored values; all else is unchanged.

    Slices of neighbouring cases share a batch. A case whose images do not fit is left out and reported to `refused`;
    with None, its DataError is raised.
    """
    for group in grouped(cases, batch_size, version.check, refused):
        images = np.concatenate([case["image"] for case in group])  # (N, C, H, W)
        keys = slice_keys(group)
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            made = version(torch.from_numpy(intensity.normalized(images[rows])), keys[rows])
            parts.append(_stored(made, keys[rows], intensity, images.dtype))
        made_images = np.concatenate(parts)
        start = 0
        for case in group:
            part = made_images[start : start + len(case)]
            start += len(case)
            yield replace(case, arrays={**case.arrays, "image": part}, synthetic=altered(case.synthetic))


def normalized_header(images: SetHeader, method: str, provenance: Provenance) -> SetHeader:
    """The header of the normalized set made from a set with header `images`."""
    notes = {**images.notes, "normalized": f"by {method}"}
    return msgspec.structs.replace(images, provenance=provenance, notes=notes)


def _stored(images: Tensor, keys: list[str], intensity: Intensity, dtype: np.dtype[np.generic]) -> Array:
    finite = torch.isfinite(images).flatten(1).all(1)
    if not finite.all():
        key = keys[int(finite.int().argmin())]
        raise DataError(f"case and slice {key}: its normal version is not finite; the model diverged in training")
    return intensity.stored(images.cpu().numpy(), dtype)
