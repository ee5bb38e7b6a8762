"""New images from noise, each with its own condition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from medgen.artifacts.provenance import Provenance
from medgen.artifacts.schema import GENERATED, NO_SPLIT, SPACING_NOTE, Array, Case, SetHeader
from medgen.config import convert, plain
from medgen.diffusion.guidance import Denoise, guide, of_one_network, of_two_networks, scale_over_time
from medgen.diffusion.noise import NoiseStream
from medgen.diffusion.options import Objective, ScheduleConfig
from medgen.diffusion.sampling import sample, steps_of
from medgen.diffusion.schedules import Schedule
from medgen.diffusion.times import first_time
from medgen.errors import DataError
from medgen.inference.conditions.requests import Requests
from medgen.inference.generate_options import DEFAULT_GUIDANCE, GenerateOptions
from medgen.models.facts import type_for
from medgen.models.trained import Denoiser, FrozenVAE, check_pair
from medgen.nets.condition import NOTHING, Condition


@dataclass(frozen=True)
class Generator:
    """A denoiser, the VAE that decodes its latents (None in image space), and how to sample."""

    denoiser: Denoiser
    vae: FrozenVAE | None
    options: GenerateOptions
    weaker: Denoiser | None = None
    """What guidance leads away from in place of the null condition (autoguidance)."""

    def __post_init__(self) -> None:
        check_pair(self.denoiser, self.vae)
        if self.weaker is not None:
            check_weaker(self.weaker, self.denoiser)

    @property
    def guidance(self) -> float:
        """The guidance scale: the one asked for, else the model's own, else the default; 1 is none."""
        own = self.denoiser.facts.guidance if self.guided_as_trained else self.options.guidance
        return DEFAULT_GUIDANCE if own is None else own

    @property
    def guided_as_trained(self) -> bool:
        """Whether the scale is the one that the model's training found best."""
        return self.options.guidance is None and self.denoiser.facts.guidance is not None

    @property
    def networks(self) -> list[Denoiser | FrozenVAE]:
        """All that take part in sampling."""
        return [network for network in (self.denoiser, self.vae, self.weaker) if network is not None]

    def settings(self, requests: Requests) -> dict[str, Any]:
        """What decides the samples besides seed, networks and precision, for the provenance."""
        settings = plain(self.options) | {"count": requests.count, "guidance": self.guidance}
        del settings["batch_size"]
        settings |= requests.described(self.denoiser.facts.vector_fields)
        if self.guided_as_trained:
            settings["guidance_from"] = "the model"
        if self.weaker is not None:
            settings["guide_by"] = self.weaker.model.digest
        return settings

    def without_effect(self, requests: Requests) -> Iterator[str]:
        """A warning if guidance was asked for but its scale is 1 at every step."""
        schedule = self._schedule()
        times, _ = steps_of(schedule, objective_of(self.denoiser.facts.objective), self.options)
        scale = scale_over_time(self.guidance, self.options.guidance_shape, schedule)
        if not bool((scale(times) if callable(scale) else torch.tensor(scale)).eq(1).all()):
            return
        negative = requests.texts is not None and requests.texts.negative is not None
        asked = {
            "--negative-prompt": negative,
            "--negative-vector": requests.negative is not None,
            "--guide-by": self.weaker is not None,
            f"--guidance {self.guidance:g}": self.guidance != 1,
        }
        for option in (name for name, given in asked.items() if given):
            yield (
                f"{option} has no effect, since the scale of guidance is 1 at each of the {len(times)} steps; give "
                "--guidance above 1, a wider --guidance-shape, or more --steps"
            )

    def header(self, provenance: Provenance, requests: Requests) -> SetHeader:
        """The header of the generated set; its intensity maps the images back to physical values."""
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
        for start in range(0, len(indices), self.options.batch_size):
            batch = indices[start : start + self.options.batch_size]
            asked = requests.arrays(batch)
            condition = requests.condition(batch, asked, self.denoiser.facts.mask_names)
            lent = requests.retrieved.start(batch, self.denoiser, self.vae) if requests.retrieved else None
            begin = None if lent is None or requests.retrieved is None else (lent, requests.retrieved.strength)
            images = self.images(batch, condition, requests.unwanted(condition), begin)
            yield from self.shown(images, batch, asked, requests.told(batch))

    def shown(
        self, images: Tensor, indices: Sequence[int], asked: Mapping[str, Array], texts: Mapping[str, Sequence[str]]
    ) -> Iterator[Case]:
        """Images (B, C, H, W) in [-1, 1] as one case each, with their requests: arrays (B, ...) and texts by name."""
        arrays = {"image": self._stored(images), **asked}
        for row, index in enumerate(indices):
            yield Case(
                f"sample-{index:06d}",
                {name: values[row : row + 1] for name, values in arrays.items()},
                text=tuple(texts.get("text", ())[row : row + 1]),
                modality=tuple(texts.get("modality", ())[row : row + 1]),
                split=self.options.split_name or NO_SPLIT,
                spacing=self.denoiser.facts.spacing or (1.0, 1.0, 1.0),
                synthetic=GENERATED,
            )

    def images(
        self,
        indices: Sequence[int],
        condition: Condition = NOTHING,
        unwanted: Condition | None = None,
        begin: tuple[Tensor, float] | None = None,
    ) -> Tensor:
        """Samples of `indices`, as images (B, C, H, W) roughly in [-1, 1]; DataError for NaN.

        Guidance leads towards the `condition` of the batch, away from `unwanted` or, by default, from the null
        condition. Sampling starts from noise, or from `begin`: network inputs (B, c, h, w) of images, and the share of
        the schedule to which they are noised.
        """
        options, facts = self.options, self.denoiser.facts
        schedule = self._schedule()
        noise = NoiseStream(options.seed, indices, facts.shape, self.denoiser.device)
        objective, x, start = objective_of(facts.objective), noise.initial(), None
        if begin is not None:
            start = begin[1] * first_time(schedule, objective)
            times = torch.full((len(x),), start, dtype=torch.float64, device=x.device)
            x = schedule.add_noise(begin[0], x, times)
        x0 = sample(
            self._guided(condition, unwanted, schedule),
            x,
            schedule,
            objective,
            options,
            start=start,
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

    def _schedule(self) -> Schedule:
        return Schedule(convert(ScheduleConfig, self.denoiser.facts.schedule, "the model's schedule"))

    def _guided(self, condition: Condition, unwanted: Condition | None, schedule: Schedule) -> Denoise:
        """The network in the form that samplers call, `denoise(x, t)`."""
        if condition is NOTHING and self.weaker is None:
            return self.denoiser
        ours = self.denoiser.prepared(condition)
        if self.weaker is not None:
            weaker, theirs = self.weaker, self.weaker.prepared(condition)
            sides = of_two_networks(lambda x, t: self.denoiser(x, t, ours), lambda x, t: weaker(x, t, theirs))
        else:
            other = ours.null() if unwanted is None else self.denoiser.prepared(unwanted)
            sides = of_one_network(self.denoiser, ours, other, Condition.joined)
        scale = scale_over_time(self.guidance, self.options.guidance_shape, schedule)
        return guide(sides, scale, self.options.guidance_rescale)

    def _stored(self, images: Tensor) -> Array:
        facts = self.denoiser.facts if self.vae is None else self.vae.facts
        intensity = self.denoiser.facts.intensity
        return intensity.stored(images.cpu().numpy(), facts.stored_dtype or type_for(intensity))


SHARED = (
    "space", "shape", "schedule", "objective", "intensity", "vector_fields", "mask_names", "vocabulary", "modalities",
    "vae_digest", "latent_scale", "latent_shift",
)  # fmt: skip
"""Facts in which a network that guides another must agree with it."""


def check_weaker(weaker: Denoiser, denoiser: Denoiser) -> None:
    """DataError naming every way in which the weaker model's outputs or conditions differ from the denoiser's."""
    unlike = [name for name in SHARED if getattr(weaker.facts, name) != getattr(denoiser.facts, name)]
    if unlike:
        raise DataError(
            f"{weaker.model.path}: cannot guide {denoiser.model.path}, because they differ in {', '.join(unlike)}; "
            "give a model of the same data, diffusion and conditions"
        )


def objective_of(name: str) -> Objective:
    """The objective called `name` in a model's facts; DataError for an unknown one."""
    try:
        objective: Objective = msgspec.convert(name, Objective)
    except msgspec.ValidationError:
        raise DataError(f"the model predicts '{name}', which this version does not know") from None
    return objective
