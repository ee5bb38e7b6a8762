"""`train-diffusion`: one command for all diffusion models, which picks the learner by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medgen.training.learners import denoiser, interpolator, normalizer, siamese
from medgen.training.learners.diffusion_options import (
    DenoiserOptions,
    InterpolatorOptions,
    NormalizerOptions,
    SiameseOptions,
    TrainDiffusionOptions,
)
from medgen.training.loop.run import Run, Training, start

LEARNERS: dict[type[TrainDiffusionOptions], Callable[[Training, Any], None]] = {
    DenoiserOptions: denoiser.train,
    InterpolatorOptions: interpolator.train,
    NormalizerOptions: normalizer.train,
    SiameseOptions: siamese.train,
}
"""How each learner trains, by its options."""


def train_diffusion(run: Run, options: TrainDiffusionOptions) -> None:
    """Train on the set `run.source` with the learner of `options`, and write the model `run.output`."""
    with start(run, options) as training:
        LEARNERS[type(options)](training, options)
