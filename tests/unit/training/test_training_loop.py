"""Stopping, going on, failing: what the loop promises whatever it trains."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from medgen.artifacts.model_file import open_model
from medgen.errors import ConfigError, DataError, OutputError, Terminated
from medgen.training.data.options import Balance
from medgen.training.data.step import Batch, Step
from medgen.training.learners.denoiser import DenoiserLearner
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import TrainDiffusionOptions
from medgen.training.learners.vae import VAELearner, train_vae
from medgen.training.learners.vae_options import TrainVAEOptions
from medgen.training.loop.distributed import World
from medgen.training.loop.options import decisive
from medgen.training.loop.resume import ResumeFile
from medgen.training.loop.run import Run
from medgen.training.loop.signals import StopRequest
from medgen.training.loop.watch import TrainingFailed, Watch

RunOf = Callable[..., Run]


def interrupting(kind: type, at: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process get a signal in the middle of step `at`."""
    honest = kind.loss  # type: ignore[attr-defined]

    def loss(self: Any, batch: Batch, step: Step) -> Any:
        if step.training and step.index == at and step.offset == 0:
            os.kill(os.getpid(), number)
        return honest(self, batch, step)

    monkeypatch.setattr(kind, "loss", loss)


@pytest.mark.parametrize("case", ["denoiser", "vae", "adversarial"])
def test_stopped_and_gone_on_with_ends_in_the_same_bytes(
    case: str,
    images: Path,
    latents: Path,
    run_of: RunOf,
    small_vae: Callable[..., TrainVAEOptions],
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    loop = {"accumulate": 2, "decay": "cosine", "warmup": 2, "validate_every": 2}
    if case == "denoiser":
        kind, command, source = DenoiserLearner, "train-diffusion", latents
        options: Any = small_diffusion(loop, balance=Balance("on", 0.5))
        train: Any = train_diffusion
    else:
        kind, command, source, train = VAELearner, "train-vae", images, train_vae
        options = small_vae(loop, crop=16, flip=True)
        if case == "adversarial":
            losses = {"adversarial": 0.5, "perceptual": 0.1}
            options = small_vae(losses=TrainVAEOptions().losses.__class__(**losses))
    train(run_of(command, source, "whole.safetensors"), options)
    whole = run_of(command, source, "whole.safetensors").output.read_bytes()

    for at, number, error in (
        (0, signal.SIGTERM, Terminated),
        (2, signal.SIGINT, KeyboardInterrupt),
        (5, signal.SIGTERM, Terminated),
    ):
        with pytest.MonkeyPatch.context() as patch:
            interrupting(kind, at, number, patch)
            before = signal.getsignal(number)
            with pytest.raises(error):
                train(run_of(command, source, "parts.safetensors"), options)
            assert signal.getsignal(number) is before
    run = run_of(command, source, "parts.safetensors")
    assert not run.output.exists()
    assert run.output.with_name("parts.safetensors.resume").exists()
    train(run, options)
    assert run.output.read_bytes() == whole
    assert not run.output.with_name("parts.safetensors.resume").exists()


def test_the_state_goes_on_only_with_the_training_it_is_of(
    latents: Path,
    run_of: RunOf,
    reporter: Any,
    monkeypatch: pytest.MonkeyPatch,
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    interrupting(DenoiserLearner, 3, signal.SIGTERM, monkeypatch)
    with pytest.raises(Terminated, match="after step 4 of 6"):
        train_diffusion(run_of("train-diffusion", latents), small_diffusion())
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"learning_rate was 0.002, is now 0.1.*--fresh"):
        train_diffusion(run_of("train-diffusion", latents), small_diffusion({"learning_rate": 0.1}))
    with pytest.raises(ConfigError, match="seed was 0, is now 1"):
        train_diffusion(run_of("train-diffusion", latents), small_diffusion(seed=1))
    train_diffusion(run_of("train-diffusion", latents), small_diffusion({"log_every": 2, "save_every": 5}))
    assert "going on after step 4 of 6" in reporter.told
    assert decisive(small_diffusion(), {"precision": "float32"}, 2)["loop"]["processes"] == 2

    with pytest.raises(OutputError, match="--force"):
        train_diffusion(run_of("train-diffusion", latents), small_diffusion())


def test_fresh_starts_anew(
    latents: Path,
    run_of: RunOf,
    reporter: Any,
    monkeypatch: pytest.MonkeyPatch,
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    interrupting(DenoiserLearner, 3, signal.SIGTERM, monkeypatch)
    with pytest.raises(Terminated):
        train_diffusion(run_of("train-diffusion", latents), small_diffusion())
    monkeypatch.undo()
    train_diffusion(run_of("train-diffusion", latents, fresh=True), small_diffusion(seed=1))
    assert not any("going on" in line for line in reporter.told)


def test_a_nan_in_the_data_is_traced_to_its_slice_and_nothing_is_written(
    run_of: RunOf, write_images: Callable[..., Path], small_vae: Callable[..., TrainVAEOptions]
) -> None:
    run = run_of("train-vae", write_images("bad.h5", 4, bad=float("nan")))
    with pytest.raises(
        TrainingFailed, match=r"step \d: the loss is nan: slice 1 of case case-000 holds image"
    ) as caught:
        train_vae(run, small_vae({"save_every": 1}))
    assert caught.value.exit_code == 65
    assert not run.output.exists()


def test_a_nan_among_the_validation_data_is_traced_too(
    run_of: RunOf, write_images: Callable[..., Path], small_vae: Callable[..., TrainVAEOptions]
) -> None:
    source = write_images("bad.h5", 4, bad=float("nan"), splits=("val", "train"))
    with pytest.raises(TrainingFailed, match=r"validation: the loss is nan: slice 1 of case case-000"):
        train_vae(run_of("train-vae", source), small_vae({"steps": 1}))


def test_it_is_saved_by_the_clock_too(
    latents: Path,
    run_of: RunOf,
    monkeypatch: pytest.MonkeyPatch,
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    saved: list[int] = []
    honest = ResumeFile.save
    monkeypatch.setattr(
        ResumeFile,
        "save",
        lambda self, tensors, progress: (saved.append(progress.step), honest(self, tensors, progress)),
    )
    train_diffusion(run_of("train-diffusion", latents), small_diffusion({"save_every": 4, "save_minutes": 1e-9}))
    assert saved == [1, 2, 3, 4, 5, 6]
    saved.clear()
    train_diffusion(run_of("train-diffusion", latents, "other"), small_diffusion({"save_every": 4, "save_minutes": 0}))
    assert saved == [4, 6]


def test_a_good_state_outlives_the_failure_after_it(
    latents: Path,
    run_of: RunOf,
    monkeypatch: pytest.MonkeyPatch,
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    honest = DenoiserLearner.loss

    def poisoned(self: DenoiserLearner, batch: Batch, step: Step) -> Any:
        loss, parts = honest(self, batch, step)
        return (loss * float("nan") if step.training and step.index >= 4 else loss), parts

    run, options = run_of("train-diffusion", latents), small_diffusion({"steps": 9, "save_every": 4})
    monkeypatch.setattr(DenoiserLearner, "loss", poisoned)
    with pytest.raises(
        TrainingFailed,
        match=r"step 8: the loss is nan, the 4th time within 200 steps: the data are sound, so continue at a lower "
        r"rate with --continue-with loop.learning_rate=0.001 \(the state after step 4 is kept in",
    ):
        train_diffusion(run, options)
    monkeypatch.undo()
    train_diffusion(run, options)
    train_diffusion(run_of("train-diffusion", latents, "whole.safetensors"), options)
    assert run.output.read_bytes() == run_of("x", latents, "whole.safetensors").output.read_bytes()


def test_a_single_step_that_is_not_finite_is_left_out_and_counted(
    latents: Path,
    run_of: RunOf,
    reporter: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    honest = DenoiserLearner.loss

    def poisoned(self: DenoiserLearner, batch: Batch, step: Step) -> Any:
        loss, parts = honest(self, batch, step)
        return (loss * float("inf") if step.training and step.index == 2 and step.offset == 4 else loss), parts

    monkeypatch.setattr(DenoiserLearner, "loss", poisoned)
    options, log = small_diffusion({"accumulate": 2, "save_every": 1}), tmp_path / "log.jsonl"
    train_diffusion(run_of("train-diffusion", latents, "whole", log=log), options)
    assert [line for line in reporter.warnings if "step 3" in line] == [
        "step 3: the loss is inf, though the data are sound; it is left out (1 so far)"
    ]
    lines = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert "loss" not in lines[2]
    assert [line.get("steps_left_out", 0) for line in lines if "learning_rate" in line] == [0, 0, 1, 1, 1, 1]
    assert open_model(tmp_path / "whole").facts["steps_left_out"] == 1

    interrupting(DenoiserLearner, 3, signal.SIGTERM, monkeypatch)
    with pytest.raises(Terminated):
        train_diffusion(run_of("train-diffusion", latents, "parts"), options)
    monkeypatch.setattr(DenoiserLearner, "loss", poisoned)
    train_diffusion(run_of("train-diffusion", latents, "parts"), options)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_dropout_goes_on_where_it_was(
    latents: Path,
    run_of: RunOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    options = small_diffusion()
    options = replace(options, network=replace(options.network, dropout=0.5))
    train_diffusion(run_of("train-diffusion", latents, "whole"), options)
    interrupting(DenoiserLearner, 2, signal.SIGTERM, monkeypatch)
    with pytest.raises(Terminated):
        train_diffusion(run_of("train-diffusion", latents, "parts"), options)
    monkeypatch.undo()
    torch.rand(7)  # what else draws must not matter
    train_diffusion(run_of("train-diffusion", latents, "parts"), options)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_warm_up_shrinks_with_a_shortened_training(small_vae: Callable[..., TrainVAEOptions]) -> None:
    assert small_vae({"steps": 60, "warmup": 1000}).loop.rising == 30
    assert small_vae({"steps": 60, "warmup": 7}).loop.rising == 7
    assert small_vae({"steps": 1, "warmup": 7}).loop.rising == 0


@pytest.mark.parametrize(
    ("number", "failure", "told"),
    [
        (signal.SIGINT, RuntimeError, KeyboardInterrupt),
        (signal.SIGTERM, RuntimeError, Terminated),
        (signal.SIGINT, DataError, DataError),
        (None, RuntimeError, RuntimeError),
    ],
)
def test_what_a_signal_makes_fail_is_told_as_the_end_that_was_asked_for(
    number: int | None, failure: type[Exception], told: type[BaseException]
) -> None:
    """Ctrl-C reaches compilers, too, which end; but it does not hide what is wrong with the data."""
    with pytest.raises(told), StopRequest():
        if number is not None:
            signal.raise_signal(number)
        raise failure("the compiler was interrupted")


def test_the_log_is_whole_after_an_interruption(
    latents: Path,
    run_of: RunOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    options, log = small_diffusion({"validate_every": 3}), tmp_path / "log.jsonl"
    interrupting(DenoiserLearner, 2, signal.SIGTERM, monkeypatch)
    with pytest.raises(Terminated):
        train_diffusion(run_of("train-diffusion", latents, log=log), options)
    monkeypatch.undo()
    train_diffusion(run_of("train-diffusion", latents, log=log), options)
    lines = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "validation_loss" in line] == [3, 6]
    assert {"loss", "gradient_norm", "learning_rate", "images_per_second", "step"} <= lines[0].keys()


def test_a_signal_in_the_last_step_is_not_lost(
    latents: Path,
    run_of: RunOf,
    monkeypatch: pytest.MonkeyPatch,
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    """What comes after it, such as the search for the best guidance, may take long."""
    run, options, save = run_of("train-diffusion", latents), small_diffusion({"steps": 2}), ResumeFile.save

    def interrupted(self: ResumeFile, *arguments: Any) -> None:
        save(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ResumeFile, "save", interrupted)
        with pytest.raises(Terminated, match="after step 2 of 2; the same command continues from there"):
            train_diffusion(run, options)
    assert not run.output.exists()
    train_diffusion(run, options)
    assert run.output.exists()


def test_stopped_while_its_loss_runs_away_it_says_where_it_will_continue(
    latents: Path,
    run_of: RunOf,
    monkeypatch: pytest.MonkeyPatch,
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    interrupting(DenoiserLearner, 4, signal.SIGTERM, monkeypatch)
    monkeypatch.setattr(Watch, "suspicious", property(lambda watch: len(watch._history) == 5))
    with pytest.raises(Terminated, match="after step 5 of 6; the same command continues from step 4"):
        train_diffusion(run_of("train-diffusion", latents), small_diffusion())


def test_all_processes_end_where_one_has_ended(
    latents: Path,
    run_of: RunOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_diffusion: Callable[..., TrainDiffusionOptions],
) -> None:
    """What decides it may be measured in each of them, with other last bits: the others would wait forever."""
    asked: list[bool] = []
    monkeypatch.setattr(World, "any", lambda world, flag: asked.append(flag) or len(asked) == 4)  # of the second step
    train_diffusion(run_of("train-diffusion", latents, log=tmp_path / "log"), small_diffusion({"save_minutes": 0}))
    assert [json.loads(line)["step"] for line in (tmp_path / "log").read_text().splitlines()[1:]] == [1, 6]


def test_accumulated_batches_equal_one_large_batch(
    latents: Path, run_of: RunOf, small_diffusion: Callable[..., TrainDiffusionOptions]
) -> None:
    train_diffusion(run_of("train-diffusion", latents, "large"), small_diffusion({"batch_size": 8}))
    train_diffusion(run_of("train-diffusion", latents, "small"), small_diffusion({"batch_size": 2, "accumulate": 4}))
    large, small = (open_model(run_of("x", latents, name).output).weights() for name in ("large", "small"))
    for name, weight in large.items():
        assert torch.allclose(weight, small[name], atol=1e-5), name


def test_wrong_inputs_are_refused(
    images: Path,
    latents: Path,
    run_of: RunOf,
    reporter: Any,
    write_images: Callable[..., Path],
    small_vae: Callable[..., TrainVAEOptions],
) -> None:
    with pytest.raises(DataError, match="needs an image set"):
        train_vae(run_of("train-vae", latents), small_vae())
    with pytest.raises(ConfigError, match="--init"):
        train_vae(run_of("train-vae", images), small_vae(decoder_only=True))
    with pytest.raises(DataError, match="no 'train' split"):
        train_vae(run_of("train-vae", write_images("val.h5", 3, splits=("val",))), small_vae())
    train_vae(run_of("train-vae", write_images("train.h5", 3, splits=("train",))), small_vae({"steps": 1}))
    assert reporter.warnings == ["the set has no 'val' split, so nothing is validated"]
