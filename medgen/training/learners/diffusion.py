"""`train-diffusion`: one command for every model that learns a diffusion, by the name of its learner."""

from __future__ import annotations

from collections.abc import Callable

from medgen.training.learners import denoiser, interpolator, normalizer
from medgen.training.learners.diffusion_options import TrainDiffusionOptions
from medgen.training.loop.run import Run, Training, start

LEARNERS: dict[str, Callable[[Training, TrainDiffusionOptions], None]] = {
    "denoiser": denoiser.train,
    "interpolator": interpolator.train,
    "normalizer": normalizer.train,
}


def train_diffusion(run: Run, options: TrainDiffusionOptions) -> None:
    """Train on the set `run.source` what `options.learner` names, and write the model `run.output`."""
    with start(run, options) as training:
        LEARNERS[options.learner](training, options)
