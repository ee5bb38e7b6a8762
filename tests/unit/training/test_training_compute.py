"""Options that change how a training computes, not what."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from medgen.errors import DataError, Terminated
from medgen.training.data.slices import Slices
from medgen.training.data.step import Batch
from medgen.training.learners.denoiser import DenoiserLearner
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import TrainDiffusionOptions
from medgen.training.learners.vae import train_vae
from medgen.training.learners.vae_options import TrainVAEOptions, VAELosses
from medgen.training.loop.run import Run
from tests.unit.training.test_training_loop import interrupting

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


@pytest.mark.parametrize("stop", [None, 1])
def test_batches_that_are_read_ahead_are_the_same(
    stop: int | None,
    latents: Path,
    run_of: RunOf,
    small_diffusion: Callable[..., TrainDiffusionOptions],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = small_diffusion({"steps": 4, "accumulate": 2, "validate_every": 1})
    train_diffusion(run_of("train-diffusion", latents, "now"), options)
    readers: set[str] = set()
    honest = Slices.at

    def at(self: Slices, positions: Sequence[int]) -> Batch:
        readers.add(threading.current_thread().name)
        return honest(self, positions)

    monkeypatch.setattr(Slices, "at", at)
    monkeypatch.setattr("medgen.training.loop.loop.READ_AHEAD", ("cpu",))
    if stop is not None:
        with monkeypatch.context() as patch, pytest.raises(Terminated):
            interrupting(DenoiserLearner, stop, signal.SIGTERM, patch)
            train_diffusion(run_of("train-diffusion", latents, "ahead"), options)
        assert not any(thread.name == "read-ahead" for thread in threading.enumerate())
    train_diffusion(run_of("train-diffusion", latents, "ahead"), options)
    assert readers == {"read-ahead", "MainThread"}  # of training, and of validation
    outputs = [run_of("x", latents, name).output.read_bytes() for name in ("now", "ahead")]
    assert outputs[0] == outputs[1]


def test_what_fails_in_reading_ahead_is_told(
    write_images: Callable[..., Path],
    run_of: RunOf,
    small_vae: Callable[..., TrainVAEOptions],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("medgen.training.loop.loop.READ_AHEAD", ("cpu",))
    monkeypatch.setattr(Slices, "at", lambda *_: (_ for _ in ()).throw(DataError("slice 3 is damaged")))
    with pytest.raises(DataError, match="slice 3 is damaged"):
        train_vae(run_of("train-vae", write_images("a.h5", 4)), small_vae())
