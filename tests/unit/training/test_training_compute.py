"""Options that change how a training computes, not what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import TrainDiffusionOptions
from medgen.training.learners.losses import VAELosses
from medgen.training.learners.vae import TrainVAEOptions, train_vae
from medgen.training.loop.run import Run

RunOf = Callable[..., Run]


@pytest.mark.parametrize("case", ["denoiser", "vae"])
def test_a_training_in_less_memory_ends_in_the_same_bytes(
    case: str,
    images: Path,
    latents: Path,
    run_of: RunOf,
    small_vae: Callable[..., TrainVAEOptions],
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    written = []
    for checkpoint in (False, True):
        run = run_of("train", latents if case == "denoiser" else images, f"{checkpoint}.safetensors")
        if case == "denoiser":
            train_diffusion(run, small_diffusion({"steps": 3, "checkpoint": checkpoint}))
        else:
            losses = VAELosses(adversarial=0.5)  # asks for gradients twice
            train_vae(run, small_vae({"steps": 3, "checkpoint": checkpoint}, losses=losses))
        written.append(run.output.read_bytes())
    assert written[0] == written[1]


def test_both_halves_of_a_vae_and_its_judge_run_compiled(
    images: Path, run_of: RunOf, small_vae: Callable[..., TrainVAEOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def watched(self: Any) -> None:
        def call(*arguments: Any, **options: Any) -> Any:
            called.append(type(self).__name__)
            return self._call_impl(*arguments, **options)

        self._compiled_call_impl = call  # what nn.Module.compile sets and a call takes

    monkeypatch.setattr(nn.Module, "compile", watched)
    losses = VAELosses(adversarial=0.5)
    train_vae(run_of("train-vae", images), small_vae({"steps": 1, "compile": True}, losses=losses))
    assert {"Encoder", "Decoder", "PatchDiscriminator"} == set(called)
