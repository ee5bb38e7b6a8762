"""Going on in another way than before, and straight to the end."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from medgen.artifacts.model_file import Model, open_model
from medgen.artifacts.outputs.whole import atomic_file
from medgen.artifacts.tensors.file import write_tensors
from medgen.errors import ConfigError, InputMissingError, Terminated, UsageError
from medgen.models.precision import Choice
from medgen.training.data.slices import Slices
from medgen.training.data.step import Batch, Step
from medgen.training.learners.denoiser import DenoiserLearner
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import TrainDiffusionOptions
from medgen.training.learners.vae import VAELearner, train_vae
from medgen.training.learners.vae_options import TrainVAEOptions
from medgen.training.loop.continuation import Wish
from medgen.training.loop.resume import State
from medgen.training.loop.run import Run
from tests.unit.training.test_training_loop import interrupting

RunOf = Callable[..., Run]
SmallDiffusion = Callable[..., TrainDiffusionOptions]


@pytest.fixture
def stopped(latents: Path, run_of: RunOf, small_diffusion: SmallDiffusion) -> Callable[..., None]:
    """Stop a training of `out` after a step: `stopped(3, {"steps": 6})`."""

    def stop(after: int, loop: dict[str, Any] | None = None, name: str = "out", **changes: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            interrupting(DenoiserLearner, after - 1, signal.SIGTERM, patch)
            with pytest.raises(Terminated, match=f"after step {after}"):
                train_diffusion(run_of("train-diffusion", latents, name, **changes), small_diffusion(loop))

    return stop


@pytest.fixture
def train(latents: Path, run_of: RunOf, small_diffusion: SmallDiffusion) -> Callable[..., Model]:
    """Train to the end: `train({"steps": 9}, {"loop.steps": 9})`, with the changes that are wished for."""

    def run(
        loop: dict[str, Any] | None = None, changes: dict[str, Any] | None = None, name: str = "out", **options: Any
    ) -> Model:
        called = run_of(
            "train-diffusion", latents, name, wish=Wish(changes or {}, options.pop("finish", False)), **options
        )
        train_diffusion(called, small_diffusion(loop))
        return open_model(called.output)

    return run


def assert_same_weights(one: Model, other: Model) -> None:
    for ema in (True, False):
        weights, others = one.weights(ema=ema), other.weights(ema=ema)
        assert all(torch.equal(weight, others[name]) for name, weight in weights.items())


def step_of(model: Model) -> dict[str, Any]:
    return model.provenance.steps[-1].config


@pytest.mark.parametrize("steps", [3, 4, 9])
def test_with_other_steps_it_ends_where_a_training_of_so_many_does(
    steps: int, stopped: Callable[..., None], train: Callable[..., Model]
) -> None:
    stopped(3)
    changed = train({"steps": steps}, {"loop.steps": steps})
    assert_same_weights(changed, train({"steps": steps}, name="whole"))
    assert step_of(changed)["earlier"] == [{"until": 3, "loop.steps": 6}]
    assert step_of(changed)["loop"]["steps"] == steps


def test_at_another_rate_it_goes_on_and_can_be_stopped_again(
    stopped: Callable[..., None], train: Callable[..., Model], reporter: Any, tmp_path: Path
) -> None:
    loop, changes = {"steps": 8, "learning_rate": 1e-4, "warmup": 2}, {"loop.learning_rate": 1e-4, "loop.warmup": 2}
    for name in ("whole", "parts"):
        stopped(3, {"steps": 8}, name, log=tmp_path / f"{name}.jsonl")
    whole = train(loop, changes, "whole", log=tmp_path / "whole.jsonl")
    told = "loop.learning_rate was 0.002, is now 0.0001; loop.warmup was 0, is now 2"
    assert f"going on after step 3 of 8 ({told})" in reporter.told
    stopped(5, loop, "parts", wish=Wish(changes), log=tmp_path / "parts.jsonl")
    reporter.told.clear()
    parts = train(loop, changes, "parts", log=tmp_path / "parts.jsonl")
    assert "going on after step 5 of 8" in reporter.told
    assert parts.path.read_bytes() == whole.path.read_bytes()
    assert step_of(parts)["earlier"] == [{"until": 3, "loop.learning_rate": 2e-3, "loop.warmup": 0}]
    for name in ("whole", "parts"):
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()[1:]]
        rates = {line["step"]: line["learning_rate"] for line in lines if "learning_rate" in line}
        assert rates == {step: 2e-3 if step <= 3 else 1e-4 for step in range(1, 9)}


def test_changes_of_changes_are_all_recorded(stopped: Callable[..., None], train: Callable[..., Model]) -> None:
    stopped(2, {"steps": 6})
    stopped(4, {"steps": 7}, wish=Wish({"loop.steps": 7}))
    model = train({"steps": 7, "clip": 0.1}, {"loop.clip": 0.1})
    assert step_of(model)["earlier"] == [{"until": 2, "loop.steps": 6}, {"until": 4, "loop.clip": 1.0}]


def test_no_sample_is_seen_twice_or_left_out_where_the_batch_changes(
    stopped: Callable[..., None], train: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []
    honest = Slices.at

    def at(self: Slices, positions: Sequence[int]) -> Batch:
        seen.extend(positions)
        return honest(self, positions)

    monkeypatch.setattr(Slices, "at", at)
    stopped(2, {"steps": 6})
    loop = {"steps": 6, "batch_size": 3, "accumulate": 2, "validation_samples": 1}
    changes = {"loop.batch_size": 3, "loop.accumulate": 2, "loop.validation_samples": 1}
    stopped(4, loop, wish=Wish(changes))
    assert State.open(tmp_path / "out.resume").record.samples == 20
    train(loop, changes)
    assert seen[:-1] == list(range(2 * 4 + 4 * 6))  # the last one is for validation


@pytest.mark.parametrize(
    "change", [{"ema": 0.0}, {"precision": "bfloat16"}, {"optimizer": "adam"}, {"betas": (0.8, 0.9)}]
)
def test_anything_of_the_loop_can_change(
    change: dict[str, Any], stopped: Callable[..., None], train: Callable[..., Model]
) -> None:
    stopped(3)
    model = train(change, {f"loop.{name}": value for name, value in change.items()})
    (name,) = change
    assert set(step_of(model)["earlier"][0]) == {"until", f"loop.{name}"}


def test_an_average_that_was_not_kept_begins_with_the_weights(
    stopped: Callable[..., None], train: Callable[..., Model]
) -> None:
    stopped(3, {"ema": 0.0})
    model = train({"ema": 0.9, "steps": 3}, {"loop.ema": 0.9, "loop.steps": 3})
    average = model.weights(ema=True)
    assert all(torch.equal(weight, average[name]) for name, weight in model.weights(ema=False).items())


def test_a_state_of_an_older_version_has_the_defaults_of_newer_options(
    stopped: Callable[..., None], train: Callable[..., Model], tmp_path: Path
) -> None:
    stopped(3)
    state = State.open(tmp_path / "out.resume")
    tensors, facts = state.tensors(), msgspec.to_builtins(state.record)
    facts["identity"]["version"], config = "0.1.0", facts["identity"]["config"]
    for options, name in ((config["network"], "feature_pyramid"), (config["loop"], "clip"), (config, "parts")):
        del options[name]
    with atomic_file(state.path, force=True) as older:
        write_tensors(older, tensors, facts)
    with pytest.raises(ConfigError, match=r"step 3 \(loop.clip was 1.0, is now 0.5\)"):
        train({"clip": 0.5})
    model = train()
    assert_same_weights(model, train(name="whole"))
    assert step_of(model)["earlier"] == [{"until": 3, "version": "0.1.0"}]


def test_what_there_is_becomes_a_model(
    stopped: Callable[..., None], train: Callable[..., Model], reporter: Any, tmp_path: Path
) -> None:
    stopped(3)
    state = State.open(tmp_path / "out.resume").tensors()
    model = train({"batch_size": 2, "precision": "bfloat16"}, finish=True)  # which train no more
    assert "finishing after step 3 of 6" in reporter.told
    for prefix, ema in (("model.", False), ("average.", True)):
        for name, weight in model.weights(ema=ema).items():
            assert torch.equal(weight, state[prefix + name])
    recorded = step_of(model)
    assert recorded["finished_after"] == 3
    assert (recorded["loop"]["batch_size"], recorded["loop"]["precision"]) == (4, "float32")
    assert not (tmp_path / "out.resume").exists()


def test_a_vae_that_is_finished_is_measured(
    images: Path, run_of: RunOf, small_vae: Callable[..., TrainVAEOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(VAELearner, 1, signal.SIGTERM, monkeypatch)
    with pytest.raises(Terminated):
        train_vae(run_of("train-vae", images), small_vae())
    monkeypatch.undo()
    train_vae(run_of("train-vae", images, wish=Wish(finish=True)), small_vae())
    assert {"latent_scale", "reconstruction_psnr"} <= open_model(run_of("x", images).output).facts.keys()


def test_wishes_that_cannot_be_met_are_refused(
    latents: Path, run_of: RunOf, stopped: Callable[..., None], train: Callable[..., Model]
) -> None:
    for options in ({"changes": {"loop.steps": 6}}, {"finish": True}):
        with pytest.raises(InputMissingError, match=r"no saved state.*leave out --(finish|continue-with)"):
            train(**options)
    stopped(3)
    with pytest.raises(
        ConfigError, match=r"learning_rate was 0.002, is now 0.1.*--continue-with loop.learning_rate=0.1"
    ):
        train({"learning_rate": 0.1, "clip": 0.5}, {"loop.clip": 0.5})
    with pytest.raises(ConfigError, match="3 steps are done; give more, or --finish"):
        train({"steps": 2}, {"loop.steps": 2})
    with pytest.raises(UsageError, match="leave out --continue-with"):
        train({"steps": 9}, {"loop.steps": 9}, finish=True)
    for options in ({"changes": {"loop.steps": 9}}, {"finish": True}):
        with pytest.raises(UsageError, match="--fresh would forget the saved state"):
            train({"steps": 9}, **options, fresh=True)
    with pytest.raises(UsageError, match="runs in 1; start 2 with torchrun"):
        train(changes={"processes": 2})
    assert train(changes={"processes": 1}).facts


def test_float16_goes_on_with_its_scale(
    stopped: Callable[..., None], train: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="a CPU is slower in it"):
        train({"precision": "float16"})
    choice = Choice(torch.float16, "for a test")
    monkeypatch.setattr("medgen.training.loop.run.choose", lambda *_, **__: choice)
    honest = DenoiserLearner.loss

    def steep(self: DenoiserLearner, batch: Batch, step: Step) -> Any:
        loss, parts = honest(self, batch, step)
        return loss + (loss - loss.detach()) * (1e34 if step.training and step.index == 1 else 0), parts

    monkeypatch.setattr(DenoiserLearner, "loss", steep)
    loop = {"precision": "float16"}
    whole = train(loop, name="whole", log=tmp_path / "log.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()[1:]]
    scales = {line["step"]: line["loss_scale"] for line in lines if "loss_scale" in line}
    assert scales == {1: 2.0**16, 3: 2.0**15, 4: 2.0**15, 5: 2.0**15, 6: 2.0**15}
    assert "steps_left_out" not in whole.facts
    stopped(4, loop, "parts")
    monkeypatch.setattr(DenoiserLearner, "loss", steep)
    parts = train(loop, name="parts")
    assert parts.path.read_bytes() == whole.path.read_bytes()
