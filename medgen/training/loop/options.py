"""Options that every training shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta

from medgen.config import SEED, Options, option, plain
from medgen.nets.options import Precision
from medgen.training.data.options import Balance

TRAINING = "Training"
"""Heading of these options in the help of commands."""
Count = Annotated[int, Meta(ge=1)]
Size = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Weight = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]


class LoopOptions(Options, frozen=True):
    """How the weights are updated; a step is one update, on batch_size * accumulate * processes samples."""

    steps: Annotated[int, option("Number of weight updates.", group=TRAINING, ge=1)] = 10_000
    batch_size: Annotated[int, option("Samples at once, in each process.", group=TRAINING, ge=1)] = 8
    accumulate: Count = 1
    """Batches whose gradients are added up before an update."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: Annotated[float, option("Learning rate.", metavar="R", group=TRAINING, gt=0)] = 1e-4
    weight_decay: Weight = 0.01
    betas: tuple[Share, Share] = (0.9, 0.999)
    warmup: Size = 0
    """Steps over which the learning rate rises from 0; at most half of all."""
    decay: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after warm-up; cosine ends at 0."""
    clip: Weight = 1.0
    """Largest norm of all gradients combined; 0 = no limit."""
    ema: Share = 0.999
    """Decay of the moving average of the weights, which rises to this over the first steps; 0 = none."""
    precision: Precision = "auto"
    """Type of matrix products; auto takes bfloat16 where it is clearly faster for this network on this machine."""
    channels_last: bool = False
    compile: bool = False
    """Compile the networks: pays off in long trainings on a GPU."""
    checkpoint: bool = False
    """Recompute a block's activations in the backward pass instead of keeping them: slower, but far less memory."""
    sharded: bool = False
    """Shard weights, gradients and optimizer state over torchrun's processes, for models too large for one GPU."""
    validate_every: Size = 1000
    """Steps between validations; 0 = only at the end."""
    validation_samples: Count = 256
    sample_every: Annotated[
        int,
        option("Steps between contact sheets in OUTPUT.samples.", metavar="N", group=TRAINING, default="none", ge=0),
    ] = 0
    """0 = none. What the samples are asked to show, and their noise, stay the same."""
    log_every: Count = 50
    save_every: Size = 1000
    """Steps between saves of the resume state; 0 = by time only."""
    save_minutes: Weight = 10.0
    """Minutes after which it is saved in any case, checked when a line is logged; 0 = by steps only."""

    @property
    def rising(self) -> int:
        """Steps of warm-up: fewer than asked for if the training is too short for them."""
        return min(self.warmup, self.steps // 2)

    def rate(self, index: int) -> float:
        """Learning rate of step `index` (from 0)."""
        if index < self.rising:
            return self.learning_rate * (index + 1) / (self.rising + 1)
        if self.decay == "constant":
            return self.learning_rate
        passed = (index - self.rising) / max(self.steps - self.rising, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * passed))


class TrainingOptions(Options, frozen=True):
    """Options common to every training."""

    loop: LoopOptions = LoopOptions()
    seed: Annotated[int, SEED] = 0


class OfSlices(Protocol):
    """Options of a training that draws slices."""

    @property
    def seed(self) -> int:
        """Seed of the draw."""

    @property
    def balance(self) -> Balance | None:
        """How often each group of slices is drawn; None: all equally."""


IRRELEVANT = ("checkpoint", "validate_every", "sample_every", "log_every", "save_every", "save_minutes")
"""Options of the loop that do not touch the weights it ends with."""


def decisive(options: TrainingOptions, precisions: Mapping[str, str], processes: int) -> dict[str, Any]:
    """The part of `options` that decides the result, for the provenance and to check whether a training can resume.

    Paths and the seed are elsewhere in the provenance; `precisions` are what "auto" chose, by option name.
    """
    config = {
        name: value for name, value in plain(options).items() if name not in ("init", "vae", "text_encoder", "seed")
    }
    loop = {name: value for name, value in config["loop"].items() if name not in IRRELEVANT}
    loop |= precisions
    sharded = loop.pop("sharded")
    if processes > 1:
        loop |= {"processes": processes, "sharded": sharded}
    return {**config, "loop": loop}
