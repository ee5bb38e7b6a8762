"""Thick slices to thin ones: the residual of a spline is sampled in latents, window by window over depth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.stacks import blocks
from medgen.artifacts.synthetic import altered
from medgen.config import convert
from medgen.diffusion.noise import sample_noise
from medgen.diffusion.options import ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.diffusion.thin_grid import blended, network_input, window_starts
from medgen.errors import DataError, UsageError
from medgen.inference.generate import objective_of
from medgen.inference.interpolate_options import InterpolateOptions
from medgen.inference.slices import Refused
from medgen.inference.sliding import Sliding
from medgen.inference.thin_volume import ThinVolume, combine, slabs, volume_of
from medgen.models.facts import check_images
from medgen.models.trained import FrozenVAE, Interpolator
from medgen.nets.condition import Condition
from medgen.reporting import Advance, unseen

ENCODED = 4
"""Slices that go through the VAE at once: more take memory, not less time."""


class GuessedSlices(NamedTuple):
    """The spline's thin slices, before the model is run, in network units."""

    images: Tensor
    """(n, C, H, W), interpolated by the spline."""
    latents: Tensor
    """(n, c, h, w) latents of these, as the network sees them."""
    decoded: Tensor
    """(n, C, H, W), the latents as the VAE decodes them."""


class Guess:
    """The guess of a volume by the spline, encoded and decoded once however many samples and windows use it."""

    def __init__(
        self, volume: ThinVolume, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]
    ) -> None:
        self._volume = volume
        self.latents = Sliding(encode(volume.guess(*ends)) for ends in slabs(len(volume)))
        self._decoded = Sliding(decode(self.latents.read(*ends)) for ends in slabs(len(volume)))

    def read(self, first: int, last: int) -> GuessedSlices:
        """Slices [first, last)."""
        latents = self.latents.read(first, last)
        return GuessedSlices(self._volume.guess(first, last), latents, self._decoded.read(first, last))

    def forget(self, before: int) -> None:
        """Drop the slices before this one."""
        self._decoded.forget(before)
        self.latents.forget(before)


@dataclass(frozen=True)
class Interpolation:
    """An interpolator, the VAE whose latents it works on, and how to sample."""

    denoiser: Interpolator
    vae: FrozenVAE
    options: InterpolateOptions
    intensity: Intensity
    """The input's intensity, with the model's window."""

    def __post_init__(self) -> None:
        self.vae.check_made(self.denoiser.facts, str(self.denoiser.model.path))

    def case(self, case: Case, advance: Advance = unseen) -> Case:
        """The thin case made from a thick one: image, and spread if there are several samples; `advance` counts slices.

        All samples advance together, slab by slab, so that memory does not depend on depth; the arrays are on disk.
        """
        volume = _volume(case, self.intensity, self.options)
        self._check(case)
        images = self._images(volume)
        thin = volume.filled(images if self.options.consistency == "none" else volume.consistent(images), advance)
        return replace(thin, synthetic=altered(case.synthetic))

    def _images(self, volume: ThinVolume) -> Iterator[Tensor]:
        """Slabs (S, n, C, H, W) in network units."""
        guess = Guess(volume, self._encode, self._decode)
        residuals = Sliding(self._residuals(volume, guess), dim=1)  # (S, N, c, h, w)
        for first, last in slabs(len(volume)):
            part = guess.read(first, last)
            slab = torch.stack([self._image(part, residual) for residual in residuals.read(first, last)])
            if not bool(torch.isfinite(slab).all()):
                raise DataError(f"case {volume.case.id}: a thin slice is not finite; the VAE diverged in training")
            yield slab
            residuals.forget(last)
            guess.forget(last)

    def _residuals(self, volume: ThinVolume, guess: Guess) -> Iterator[Tensor]:
        """Samples of the guess's residual (S, n, c, h, w), blended from windows."""
        options, count = self.options, len(volume)
        depth = min(options.depth or self.denoiser.facts.depth, count)
        overlap = min(round(options.overlap * depth), depth - 1)
        starts = window_starts(count, depth, overlap)

        def windows() -> Iterator[tuple[int, Tensor]]:
            for begin in range(0, len(starts), options.batch_size):
                batch = starts[begin : begin + options.batch_size]
                samples = [self._windows(volume, guess, batch, depth, number) for number in range(options.samples)]
                yield from zip(batch, torch.stack(samples, dim=1), strict=True)

        return blended(windows(), count, overlap)

    def _windows(self, volume: ThinVolume, guess: Guess, starts: list[int], depth: int, number: int) -> Tensor:
        """Sampled residuals of windows of `depth` slices that begin at `starts`, on the CPU: (B, depth, c, h, w)."""
        options, facts, device = self.options, self.denoiser.facts, self.denoiser.device
        latents = torch.stack([guess.latents.read(start, start + depth) for start in starts])
        known, shape = latents.transpose(1, 2).to(device), latents.shape[2:]
        spots = torch.stack([volume.places[:, start : start + depth] for start in starts]).to(device)
        lengths = volume.scales.expand(len(starts), -1)

        def noise(stream: int) -> Tensor:
            """Noise (B, c, depth, h, w); a slice has the same in every window that holds it."""
            windows = [
                sample_noise(options.seed, _keys(volume.case.id, number, range(start, start + depth)), shape, stream)
                for start in starts
            ]
            return torch.stack(windows).transpose(1, 2).to(device)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return self.denoiser(network_input(x, known, spots), t, Condition(vector=lengths))

        def correct(step: int, time: float, x0: Tensor) -> Tensor:
            windows = zip(starts, x0.transpose(1, 2), strict=True)
            return torch.stack([self._corrected(volume, guess, *window) for window in windows]).transpose(1, 2).to(x0)

        x0 = sample(
            denoise,
            noise(0),
            Schedule(convert(ScheduleConfig, facts.schedule, "the model's schedule")),
            objective_of(facts.objective),
            options,
            noise=lambda step: noise(1 + step),
            callback=correct if options.consistency == "steps" else None,
        )
        if not bool(torch.isfinite(x0).all()):
            raise DataError(f"case {volume.case.id}: the sample is not finite; the model diverged in training")
        return x0.transpose(1, 2).float().cpu()

    def _corrected(self, volume: ThinVolume, guess: Guess, start: int, residual: Tensor) -> Tensor:
        """A window's residual (n, c, h, w), corrected so that its image agrees with the thick slices inside it."""
        image = torch.cat(
            [
                self._image(guess.read(start + first, start + last), residual[first:last].cpu())
                for first, last in slabs(len(residual))
            ]
        )
        change = volume.corrected(image, start)
        if change is image:
            return residual
        difference = self._encode(change) - self._encode(image)
        return residual + difference.to(residual) / self.denoiser.facts.residual_std

    def _image(self, guess: GuessedSlices, residual: Tensor) -> Tensor:
        """Thin slices (n, C, H, W) in network units, from their guess and its residual in latents (n, c, h, w).

        The change that the residual makes to the decoded image is added to the guess itself, so that the VAE's own
        loss does not enter.
        """
        with_residual = self._decode(guess.latents + residual * self.denoiser.facts.residual_std)
        return combine(guess.images.clamp(-1.0, 1.0) + with_residual - guess.decoded, guess.images)

    def _encode(self, images: Tensor) -> Tensor:
        """Slices (n, C, H, W) in network units -> latents (n, c, h, w) on the CPU."""
        images = images.clamp(-1.0, 1.0)
        return torch.cat([self.vae.latents(images[part]).cpu() for part in _parts(len(images))])

    def _decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self.vae.images(latents[part]).cpu() for part in _parts(len(latents))])

    def _check(self, case: Case) -> None:
        channels, height, width = case.stack("image").shape[1:]
        vae = self.vae.network.config
        factor = vae.factor * self.denoiser.network.config.factor
        if channels != vae.in_channels:
            raise DataError(f"case {case.id}: {channels} image channels, but the VAE takes {vae.in_channels}")
        if height % factor or width % factor:
            raise DataError(
                f"case {case.id}: {height} x {width} pixels do not fit the model: sides must be multiples of {factor}; "
                "resize in preprocess"
            )


@dataclass(frozen=True)
class Spline:
    """Interpolation without a model: cubic, and corrected to reproduce the thick slices."""

    options: InterpolateOptions
    intensity: Intensity

    def case(self, case: Case, advance: Advance = unseen) -> Case:
        """The thin case made from a thick one."""
        volume = _volume(case, self.intensity, self.options)
        matrix = volume.cubic if self.options.consistency == "none" else volume.spline
        images = (volume.interpolated(matrix[slice(*ends)])[None] for ends in slabs(len(volume)))
        return volume.filled(images, advance)


def interpolate(
    cases: Iterable[Case],
    interpolation: Interpolation | Spline,
    refused: Refused,
    advance: Advance = unseen,
) -> Iterator[Case]:
    """Thin cases from thick ones; a case that cannot be interpolated goes to `refused`, with the reason."""
    for case in cases:
        try:
            yield interpolation.case(case, advance)
        except DataError as error:
            refused(case, error)


def _volume(case: Case, intensity: Intensity, options: InterpolateOptions) -> ThinVolume:
    if options.spacing is None:
        raise UsageError("the spacing of the thin slices is missing; give it with --spacing MM")
    image = case.stack("image")
    if image.dtype.kind == "f" and not all(np.isfinite(block).all() for block in blocks(image)):
        raise DataError(f"case {case.id}: the image holds NaN or infinity")
    return volume_of(case, intensity, options.spacing, options.thickness, options.profile)


def model_intensity(images: SetHeader, denoiser: Interpolator, window: tuple[float, float] | None) -> Intensity:
    """The intensity of a set, with the model's window; DataError if its unit is another and no window is given."""
    ours, theirs = check_images(images, "interpolate"), denoiser.facts.intensity
    if window is None and ours.unit != theirs.unit:
        raise DataError(
            f"the set's values are in {ours.unit}, the model was trained on {theirs.unit}; to try it anyway, say "
            "which values its window covers with --window LOW,HIGH"
        )
    return msgspec.structs.replace(ours, window=window or theirs.window)


def interpolated_header(
    images: SetHeader, options: InterpolateOptions, provenance: Provenance, *, model: bool
) -> SetHeader:
    """The header of the thin set made from a set with header `images`."""
    notes = {
        **images.notes,
        "interpolated": f"to {options.spacing:g} mm by a {'generative model' if model else 'spline'}",
    }
    return SetHeader(kind="image", provenance=provenance, intensity=images.intensity, notes=notes)


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + ENCODED) for first in range(0, count, ENCODED))


def _keys(case: str, number: int, slices: range) -> list[int]:
    """What the noise of a slice depends on besides the seed: its case, sample number and position."""
    digests = [hashlib.blake2b(f"{case}/{number}/{index}".encode(), digest_size=8).digest() for index in slices]
    return [int.from_bytes(digest, "little") for digest in digests]
