"""New images from noise, each with its own condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import torch
from torch import Tensor

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import GENERATED, NO_SPLIT, SPACING_NOTE, Array, Case, SetHeader
from medgen.config import convert
from medgen.diffusion.guidance import guide
from medgen.diffusion.noise import NoiseStream
from medgen.diffusion.options import Objective, ScheduleConfig
from medgen.diffusion.sampling import sample
from medgen.diffusion.schedules import Schedule
from medgen.errors import DataError
from medgen.inference.conditions.requests import Requests, as_condition
from medgen.inference.conditions.vectors import Vectors
from medgen.inference.generate_options import GenerateOptions
from medgen.models.trained import Denoiser, FrozenVAE, check_pair
from medgen.nets.condition import Condition


@dataclass(frozen=True)
class Generator:
    """A denoiser, the VAE that decodes its latents (None in image space), and how to sample."""

    denoiser: Denoiser
    vae: FrozenVAE | None
    options: GenerateOptions

    def __post_init__(self) -> None:
        check_pair(self.denoiser, self.vae)

    def header(self, provenance: Provenance, requests: Requests) -> SetHeader:
        """The header of the generated set; its intensity takes the images back to physical values."""
        facts = self.denoiser.facts
        return SetHeader(
            kind="image",
            provenance=provenance,
            intensity=facts.intensity,
            vector_fields=() if requests.vectors is None else facts.vector_fields,
            mask_names=() if requests.masks is None else facts.mask_names,
            notes={SPACING_NOTE: "of all training cases"} if facts.spacing else {},
        )

    def cases(self, indices: Sequence[int], requests: Requests) -> Iterator[Case]:
        """Samples of the given indices, one case each, in order, with their requested conditions.

        Sample i depends on the seed and i, not on the batch.
        """
        spacing = self.denoiser.facts.spacing or (1.0, 1.0, 1.0)
        for start in range(0, len(indices), self.options.batch_size):
            batch = indices[start : start + self.options.batch_size]
            asked = requests.arrays(batch)
            images = self._stored(self.images(batch, asked, requests.negative))
            for row, index in enumerate(batch):
                arrays = {"image": images} | asked
                yield Case(
                    f"sample-{index:06d}",
                    {name: values[row : row + 1] for name, values in arrays.items()},
                    split=self.options.split_name or NO_SPLIT,
                    spacing=spacing,
                    synthetic=GENERATED,
                )

    def images(
        self, indices: Sequence[int], asked: Mapping[str, Array] | None = None, negative: Vectors | None = None
    ) -> Tensor:
        """Samples of `indices`, as images (B, C, H, W) roughly in [-1, 1]; DataError for NaN.

        `asked`: vector (B, K), mask (B, 1, H, W). `negative` (K,) replaces the null condition in guidance.
        """
        options, facts = self.options, self.denoiser.facts
        schedule = Schedule(convert(ScheduleConfig, facts.schedule, "the model's schedule"))
        noise = NoiseStream(options.seed, indices, facts.shape, self.denoiser.device)
        x0 = sample(
            self._guided(asked or {}, negative),
            noise.initial(),
            schedule,
            objective_of(facts.objective),
            options,
            noise=noise.step,
            clip=(-1.0, 1.0) if facts.space == "image" else None,
        )
        if self.vae is not None:
            x0 = self.vae.images(x0)
        finite = torch.isfinite(x0).flatten(1).all(1)
        if not finite.all():
            index = indices[int(finite.int().argmin())]
            raise DataError(f"sample {index} is not finite; the model diverged in training, or guidance is too large")
        return x0

    def _guided(self, asked: Mapping[str, Array], negative: Vectors | None) -> Callable[[Tensor, Tensor], Tensor]:
        """The network in the form that samplers call, `denoise(x, t)`."""
        if not asked:
            return self.denoiser
        condition = as_condition(asked, self.denoiser.facts.mask_names).to(self.denoiser.device)
        condition = self.denoiser.prepared(condition)
        unwanted = condition.null()
        if negative is not None:
            rows = torch.from_numpy(negative).expand(len(asked["vector"]), -1).to(self.denoiser.device)
            unwanted = replace(condition, vector=rows)
        return guide(
            self.denoiser,
            condition,
            unwanted,
            self.options.guidance,
            self.options.guidance_rescale,
            join=Condition.joined,
        )

    def _stored(self, images: Tensor) -> Array:
        facts = self.denoiser.facts if self.vae is None else self.vae.facts
        return self.denoiser.facts.intensity.stored(images.cpu().numpy(), facts.stored_dtype)


def objective_of(name: str) -> Objective:
    """The objective called `name` in a model's facts."""
    try:
        objective: Objective = msgspec.convert(name, Objective)
    except msgspec.ValidationError:
        raise DataError(f"the model predicts '{name}', which this version does not know") from None
    return objective
