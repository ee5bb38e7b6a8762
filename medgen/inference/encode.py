"""Images to latents, case by case, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import Array, Case, Intensity, SetHeader
from medgen.errors import DataError
from medgen.inference.encode_options import EncodeOptions
from medgen.inference.outliers import Summary, summarize
from medgen.inference.slices import Refused, grouped, slice_keys, slice_noise
from medgen.models.facts import VAEFacts, check_images, check_intensity
from medgen.models.trained import FrozenVAE


@dataclass
class SetEncoder:
    """Turns image cases into latent cases, and collects a summary of each for finding outliers."""

    vae: FrozenVAE
    intensity: Intensity  # of the images
    options: EncodeOptions
    refused: Refused | None = None
    """Without it the first bad case raises."""
    summaries: list[Summary] = field(default_factory=list)
    """One summary for each case encoded so far."""

    def encode(self, cases: Iterable[Case]) -> Iterator[Case]:
        """Latent cases in the order of `cases`; vector, mask, label, text and geometry are carried over.

        Slices of neighbouring cases share a batch. Raises DataError naming case and slice for values that are not
        finite.
        """
        for group in grouped(cases, self.options.batch_size, lambda case: check_image(case, self.vae), self.refused):
            images = np.concatenate([case["image"] for case in group])  # (N, C, H, W)
            latents = self._encode_slices(images, slice_keys(group))
            start = 0
            for case in group:
                part = latents[start : start + len(case)]
                start += len(case)
                if self._accept(case, part):
                    self.summaries.append(summarize(case.id, part, self.vae.facts.latent_space))
                    arrays = {name: array for name, array in case.arrays.items() if name != "image"}
                    yield replace(case, arrays={**arrays, "latent": part})

    def _encode_slices(self, images: Array, noise_keys: list[str]) -> Array:
        """(N, C, H, W) stored values -> (N, c, h, w) float32."""
        parts: list[Tensor] = []
        for start in range(0, len(images), self.options.batch_size):
            rows = slice(start, start + self.options.batch_size)
            normalized = self.intensity.normalized(images[rows])
            posterior = self.vae.encode(torch.from_numpy(normalized))
            latents = posterior.mean
            if self.options.sample:
                noise = slice_noise(self.options.seed, noise_keys[rows], latents.shape[1:])
                latents = latents + torch.exp(0.5 * posterior.logvar) * noise.to(latents.device)
            parts.append(latents.float().cpu())
        array: Array = torch.cat(parts).contiguous().numpy()
        return array

    def _accept(self, case: Case, latents: Array) -> bool:
        finite = np.isfinite(latents).all(axis=(1, 2, 3))
        if finite.all():
            return True
        error = DataError(
            f"case {case.id}, slice {int(np.argmin(finite))}: the latent is not finite; "
            "check the image for NaN and the VAE for divergence"
        )
        if self.refused is None:
            raise error
        self.refused(case, error)
        return False


def check_image(case: Case, vae: FrozenVAE) -> None:
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
    check_finite(case)


def check_finite(case: Case) -> None:
    """DataError naming the case and slice of an image that holds NaN or infinity."""
    image = case["image"]
    if image.dtype.kind == "f":
        finite = np.isfinite(image).all(axis=(1, 2, 3))
        if not finite.all():
            raise DataError(f"case {case.id}, slice {int(np.argmin(finite))}: the image holds NaN or infinity")


def check_window(images: SetHeader, facts: VAEFacts) -> Intensity:
    """The intensity of a set's images; DataError for a set of another kind, or with a window other than the VAE's."""
    check_images(images, "extract-latents")
    return check_intensity(images, facts)


def latent_header(images: SetHeader, facts: VAEFacts, vae_digest: str, provenance: Provenance) -> SetHeader:
    """The header of the latent set made from a set with header `images`."""
    return SetHeader(
        kind="latent",
        provenance=provenance,
        intensity=images.intensity,
        vector_fields=images.vector_fields,
        label_names=images.label_names,
        mask_names=images.mask_names,
        latent_scale=facts.latent_scale,
        latent_shift=facts.latent_shift,
        vae_digest=vae_digest,
        notes=images.notes,
    )
