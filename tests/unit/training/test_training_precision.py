"""A training keeps its precision when it goes on, shares it among its processes, and says where bits may change."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medgen.artifacts.model_file import open_model
from medgen.errors import ConfigError, Terminated, UsageError
from medgen.models.precision import Choice
from medgen.models.timing import Times
from medgen.nets.compute import machine
from medgen.training.learners.denoiser import DenoiserLearner
from medgen.training.learners.diffusion import train_diffusion
from medgen.training.learners.diffusion_options import TrainDiffusionOptions
from medgen.training.loop.distributed import World
from medgen.training.loop.resume import Identity
from medgen.training.loop.run import Run, Training

RunOf = Callable[..., Run]
SmallDiffusion = Callable[..., TrainDiffusionOptions]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let bfloat16 be so many times as fast as float32 in trainings."""

    def set_to(ratio: float) -> None:
        monkeypatch.setattr("medgen.models.precision.measured", lambda network, training: Times(ratio, 1.0))

    return set_to


def stopped(run: Run, options: TrainDiffusionOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until SIGTERM comes in the third step."""
    loss = DenoiserLearner.loss
    calls = []

    def interrupted(self: DenoiserLearner, batch: Any, step: Any) -> Any:
        calls.append(step)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return loss(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(DenoiserLearner, "loss", interrupted)
        with pytest.raises(Terminated):
            train_diffusion(run, options)


def test_a_training_that_goes_on_keeps_the_precision_that_auto_came_to(
    latents: Path, run_of: RunOf, reporter: Any, small_diffusion: SmallDiffusion, measured: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    auto = small_diffusion({"precision": "auto"})
    measured(2.0)
    train_diffusion(run_of("train-diffusion", latents, "whole.safetensors"), auto)
    assert "the network runs in bfloat16, since bfloat16 is 2.00 times as fast" in " ".join(reporter.details)

    stopped(run_of("train-diffusion", latents, "parts.safetensors"), auto, monkeypatch)
    measured(0.5)  # another processor, or another hour
    run = run_of("train-diffusion", latents, "parts.safetensors")
    with pytest.raises(ConfigError, match=r"loop.precision was bfloat16, is now float32"):
        train_diffusion(run, small_diffusion({"precision": "float32"}))
    train_diffusion(run, auto)
    assert run.output.read_bytes() == run.output.with_name("whole.safetensors").read_bytes()
    assert open_model(run.output).provenance.steps[-1].config["loop"]["precision"] == "bfloat16"


def test_a_training_that_starts_anew_is_measured_anew(
    latents: Path, run_of: RunOf, small_diffusion: SmallDiffusion, measured: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    auto = small_diffusion({"precision": "auto"})
    measured(2.0)
    stopped(run_of("train-diffusion", latents), auto, monkeypatch)
    measured(0.5)
    run = run_of("train-diffusion", latents, fresh=True)
    train_diffusion(run, auto)
    assert open_model(run.output).provenance.steps[-1].config["loop"]["precision"] == "float32"


def test_another_machine_or_number_of_threads_is_told(
    latents: Path, run_of: RunOf, reporter: Any, small_diffusion: SmallDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(run_of("train-diffusion", latents), small_diffusion(), monkeypatch)
    monkeypatch.setattr("medgen.training.loop.run.machine", lambda device: "Other (AVX2, 7 threads)")
    stopped(run_of("train-diffusion", latents), small_diffusion(), monkeypatch)
    (warning,) = reporter.warnings
    assert f"began on {machine(torch.device('cpu'))} and continues on Other (AVX2, 7 threads)" in warning
    reporter.warnings.clear()
    train_diffusion(run_of("train-diffusion", latents), small_diffusion())
    assert reporter.warnings == []


def test_the_machine_is_named_with_its_threads() -> None:
    torch.set_num_threads(1)
    one = machine(torch.device("cpu"))
    torch.set_num_threads(2)
    assert machine(torch.device("cpu")) == one.replace("1 thread)", "2 threads)") != one


@dataclasses.dataclass(frozen=True)
class Several(World):
    """A world whose processes measured what `numbers` says."""

    numbers: tuple[int, ...] = ()

    def all(self, value: int) -> list[int]:
        return list(self.numbers)


@pytest.mark.parametrize("rank", range(3))
def test_all_processes_take_what_the_first_measured_and_say_so(run_of: RunOf, reporter: Any, rank: int) -> None:
    """The reporter of every process but the first is silent."""
    dtypes = (torch.bfloat16, torch.float32, torch.bfloat16)
    here = Several(rank, 3, None, (1, 0, 1))
    training = Training(run_of("train-vae", Path("set")), None, here, torch.device("cpu"), reporter)  # type: ignore[arg-type]
    agreed = training._agreed(Choice(dtypes[rank], "measured"), "the network")
    assert agreed.dtype == torch.bfloat16
    assert agreed.reason == ("as in the first process" if rank == 1 else "measured")
    assert "runs in bfloat16, which is faster in the first process, but not in process 1;" in reporter.warnings[0]
    reporter.warnings.clear()
    same = dataclasses.replace(training, world=Several(rank, 3, None, (0, 0, 0)))
    assert same._agreed(Choice(torch.float32, "measured"), "the network") == Choice(torch.float32, "measured")
    assert reporter.warnings == []


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda number: number + 1, "differ in version, options or inputs"),
        (lambda number: number or 40, r"after different steps \(0, 40\); name an output in a folder that all"),
    ],
)
def test_processes_that_do_not_train_alike_are_refused_before_the_first_step(
    run_of: RunOf, reporter: Any, other: Callable[[int], int], told: str
) -> None:
    """As on two machines with folders of their own: else each would go on with other weights, without a word."""
    here: Any = SimpleNamespace(all=lambda number: [number, other(number)])
    training = Training(run_of("train-vae", Path("set")), None, here, torch.device("cpu"), reporter)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=told):
        training._check_alike(Identity("1", "train-vae", 0, {"flip": False}, {"a": "b"}), 0)
