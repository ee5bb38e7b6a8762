"""The scale of guidance that suits a model best, found on validation cases at the end of its training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from msgspec.structs import replace
from torch import Tensor
from torch.nn import functional as F

from medgen.models.condition import condition_of
from medgen.models.facts import DenoiserFacts
from medgen.nets.compute import autocast
from medgen.nets.condition import Condition
from medgen.nets.options import UNetConfig
from medgen.nets.perception.features import FixedFeatures
from medgen.nets.perception.kernel import joint_distance
from medgen.training.data.step import mix
from medgen.training.learners.diffusion_options import DenoiserOptions, SiameseOptions
from medgen.training.learners.guided import GuidedLearner
from medgen.training.loop.loop import Loop

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
"""Those that are tried; 1 is none."""
STEPS = 8
"""Of the sampler, which are few, as the scales are only compared with each other."""
SHARE = 0.05
"""Of the training's work that the search may add, counted in calls of the network so that it is the same everywhere."""
FEWEST, MOST = 32, 256
"""Validation samples: with fewer, chance decides."""
BACKWARD = 3
"""Cost of a training step over that of a call (forward, and twice as much backward)."""
CELLS = 8
"""Side of the grid on which masks are compared."""


@dataclass(frozen=True)
class Found:
    """The best scale, and how far samples at each scale are from the validation cases."""

    scale: float
    distances: dict[float, float]
    samples: int

    def told(self) -> str:
        """In words."""
        tried = ", ".join(f"{distance:.3g} at {scale:g}" for scale, distance in self.distances.items())
        return f"guidance {self.scale:g} suits best, by distances from {self.samples} validation samples of {tried}"


def affordable(loop: Loop) -> int:
    """How many validation samples the search may use."""
    if loop.validation is None:
        return 0
    calls = STEPS * sum(1 if scale == 1 else 2 for scale in SCALES)
    budget = SHARE * BACKWARD * loop.options.steps * loop.total
    return min(int(budget // calls), MOST, len(loop.validation))


def with_guidance(
    facts: DenoiserFacts, loop: Loop, learner: GuidedLearner, options: DenoiserOptions | SiameseOptions
) -> DenoiserFacts:
    """The facts with the best scale and what was tried, where the network can be guided and is to be searched."""
    found = search(loop, learner) if options.search_guidance and options.condition_dropout else None
    if found is None:
        return facts
    loop.reporter.say(found.told())
    return replace(facts, guidance=found.scale, guidance_range=(SCALES[0], SCALES[-1]))


def search(loop: Loop, learner: GuidedLearner) -> Found | None:
    """Sample under the conditions of validation cases at each of `SCALES`, and compare with these cases.

    See `joint_distance` for the measure. The features are the built-in ones of what the network makes, one channel at a
    time, and all scales get the same noise. None where the samples have no condition, or the share of the training's
    work allows too few of them.
    """
    count = affordable(loop)
    if loop.validation is None or count < FEWEST:
        loop.reporter.detail(
            f"no guidance was searched for: it would take {FEWEST} validation samples, and {SHARE:.0%} of the training "
            f"allows {count}"
        )
        return None
    seed, size = mix(loop.seed, "guidance"), loop.options.batch_size
    real: list[Tensor] = []
    asked: list[Tensor] = []
    made: dict[float, list[Tensor]] = {scale: [] for scale in SCALES}
    with loop.averaged(), torch.no_grad(), loop.reporter.progress(count, "samples") as advance:
        for first in range(0, count, size):
            numbers = range(first, min(first + size, count))
            batch = loop.on_device(loop.validation.at(numbers))
            conditions = described(condition_of(batch), learner.network.config)
            if conditions is None:
                return None
            asked.append(conditions.cpu())
            real.append(_features(learner.seen(batch)))
            for scale in SCALES:
                with autocast(loop.device, loop.dtype):
                    drawn = learner.drawn(batch, numbers, seed, scale, STEPS)
                made[scale].append(_features(drawn))
            advance(len(numbers), "guidance")
    truth, given = torch.cat(real), torch.cat(asked)
    distances = {scale: joint_distance(truth, torch.cat(parts), given) for scale, parts in made.items()}
    return Found(min(distances, key=lambda scale: distances[scale]), distances, count)


def described(condition: Condition, network: UNetConfig) -> Tensor | None:
    """The conditions of a batch as rows of numbers (B, K) of one width for all batches; None if it has none.

    Texts count by how often each piece of a word occurs, masks by how much of each cell of a grid they cover.
    """
    parts = []
    if condition.vector is not None:
        parts.append(condition.vector.float())
    if condition.mask is not None:
        parts.append(F.adaptive_avg_pool2d(condition.mask.float(), CELLS).flatten(1))
    if condition.words is not None and network.text is not None:
        counts = F.one_hot(condition.words, network.text.vocabulary).sum(1)
        parts.append(counts[:, 1:].float())  # 0 is padding
    elif condition.tokens is not None:
        parts.append(condition.tokens.float().mean(1) if condition.pooled is None else condition.pooled.float())
    if condition.modality is not None:
        parts.append(F.one_hot(condition.modality, network.modalities + 1).float())
    return torch.cat(parts, dim=1) if parts else None


def _features(x: Tensor) -> Tensor:
    """Features (B, c F) of images or latents (B, c, h, w), on the CPU."""
    scales = min(4, int(math.log2(min(x.shape[2:]))))
    features = FixedFeatures(scales).to(x.device)
    return torch.cat([features.pooled(channel) for channel in x.float().chunk(x.shape[1], dim=1)], dim=1).cpu()
