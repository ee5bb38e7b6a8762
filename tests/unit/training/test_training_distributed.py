"""Two processes of torchrun against one: weights replicated or sharded, stopped and gone on with.

Run by torchrun, this file is what the two processes do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import fsdp

from medgen.errors import Terminated, UnavailableError, UsageError
from medgen.nets.condition import Condition
from medgen.nets.options import DiscriminatorConfig, UNetConfig, VAEConfig
from medgen.nets.unet import UNet
from medgen.nets.units import units
from medgen.reporting import Silent
from medgen.training.data.step import Batch, Step, seeded
from medgen.training.learners.vae import VAELearner
from medgen.training.learners.vae_options import TrainVAEOptions, VAELosses
from medgen.training.loop.distributed import World, shard, world
from medgen.training.loop.learner import Learner, Parts
from medgen.training.loop.log import Log
from medgen.training.loop.loop import Loop
from medgen.training.loop.options import LoopOptions, TrainingOptions, decisive
from medgen.training.loop.pictures import Pictures
from medgen.training.loop.resume import Identity, Progress, ResumeFile

CPU = torch.device("cpu")
STEPS = 4


class Heads(Learner):
    """Two calls of the network in each loss, by heads that take turns; the null condition is never asked for."""

    idle_weights = True

    def __init__(self) -> None:
        config = UNetConfig(
            in_channels=1, out_channels=1, widths=(8,), blocks=1, attention=("none",), mid_attention="linear",
            head_width=8, time_width=16, groups=2, vector_size=1, vector_hidden=8, heads=("even", "odd"),
        )  # fmt: skip
        with seeded(0, "weights"):
            self.model = UNet(config)
            for weight in self.model.parameters():
                nn.init.normal_(weight, std=0.1)

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        x, head = batch["x"], ("even", "odd")[step.index % 2]
        condition = Condition(vector=batch["vector"])
        once = self.model(x, torch.tensor(1.0), condition, head=head)
        twice = self.model(once + step.noise(x), torch.tensor(2.0), condition, head=head)
        return (once + twice - x).square().mean(), {"twice": twice.detach().square().mean()}


def judged_vae() -> VAELearner:
    """A VAE whose loss asks for the gradient of its last layer, and which has a discriminator."""
    return VAELearner(
        TrainVAEOptions(
            network=VAEConfig(latent_channels=2, widths=(8, 16), blocks=1, groups=2),
            losses=VAELosses(adversarial=0.5, perceptual=0.0),
            discriminator=DiscriminatorConfig(width=8, layers=1),
        )
    )


LEARNERS: dict[str, Any] = {"heads": Heads, "vae": judged_vae}


class Noise:
    """Any number of different samples."""

    def __len__(self) -> int:
        return 1000

    def at(self, positions: Sequence[int]) -> Batch:
        draws = [torch.Generator().manual_seed(place) for place in positions]
        return {
            "x": torch.stack([torch.randn(1, 16, 16, generator=draw) for draw in draws]).clamp(-1, 1),
            "vector": torch.stack([torch.rand(1, generator=draw) for draw in draws]),
        }

    def faulty(self, positions: Sequence[int]) -> str | None:
        return None


def loop_of(learner: Learner, state: Path, here: World, *, sharded: bool = False, **changes: Any) -> Loop:
    values: dict[str, Any] = {
        "steps": STEPS, "batch_size": 2, "accumulate": 2, "learning_rate": 1e-3, "clip": 0.05, "ema": 0.9,
        "precision": "float32", "validate_every": 2, "validation_samples": 4, "log_every": 1, "save_minutes": 0,
        "sharded": sharded,
    }  # fmt: skip
    options = LoopOptions(**values | changes)
    log = Log(None, None, run="", start=0, force=False)
    resume = ResumeFile(state, Identity("0", "test", 0, {}, {}))
    pictures, dtype = Pictures(state.with_suffix(".samples")), getattr(torch, options.precision)
    return Loop(learner, Noise(), Noise(), options, 0, CPU, dtype, resume, log, Silent(), here, pictures)


def result(loop: Loop) -> dict[str, Tensor]:
    """Everything that a training ends with, as one dict."""
    figures = {name: torch.tensor(value) for name, value in loop.validate().items()}
    weights, average = loop.weights()
    parts = {"figures": figures, "weights": weights, "average": average or {}}
    return {f"{part}.{name}": value.clone() for part, values in parts.items() for name, value in values.items()}


def stop(learner: Learner, at: int) -> None:
    """Let this process be told to stop in the middle of step `at`."""
    honest = learner.loss

    def loss(batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        if step.training and (step.index, step.offset) == (at, 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(batch, step)

    learner.loss = loss  # type: ignore[method-assign]


def poison(learner: Learner, at: int) -> None:
    """Let the loss be infinite in this process in step `at`."""
    honest = learner.loss

    def loss(batch: Batch, step: Step) -> tuple[Tensor, Parts]:
        value, parts = honest(batch, step)
        return (value * float("inf") if step.training and step.index == at else value), parts

    learner.loss = loss  # type: ignore[method-assign]


def held(loop: Loop) -> float:
    """Share of the weights, averages and moments that this process holds."""
    tensors: list[Any] = [*loop.learner.model.parameters(), *(loop.average.average if loop.average else [])]
    tensors += [value for moments in loop.optimizers.each[0].state.values() for value in moments.values() if value.ndim]
    share: float = sum(tensor.to_local().numel() for tensor in tensors) / sum(tensor.numel() for tensor in tensors)
    return share


def types_used(network: nn.Module) -> set[torch.dtype]:
    """Fills with the types that the weights of units have while they are used."""
    used: set[torch.dtype] = set()
    for unit in units(network):
        for layer in unit.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_pre_hook(lambda layer, inputs: used.add(layer.weight.dtype))
    return used


def in_two_processes(folder: Path) -> None:
    torch.set_num_threads(1)
    with world(CPU) as (here, _):
        assert here.all(10 + here.rank) == [10, 11]
        for name, learner in LEARNERS.items():
            for layout in ("replicated", "sharded"):
                sharded = layout == "sharded"
                loop = loop_of(learner(), folder / f"{name}-{layout}", here, sharded=sharded)
                loop.run(Progress())
                if here.first:
                    save_file(result(loop), folder / f"{name}-{layout}.safetensors")
                else:
                    assert loop.validate()
                    assert loop.weights() == ({}, {})
                if sharded:
                    assert 0.3 < held(loop) < 0.7
            stopped = learner()
            if here.first:
                stop(stopped, 1)
            with pytest.raises(Terminated):
                loop_of(stopped, folder / f"{name}-stopped", here, sharded=True).run(Progress())
            here.wait()
            halved = loop_of(learner(), folder / f"{name}-halved", here, sharded=True, precision="bfloat16", steps=1)
            used = types_used(halved.learner.model)
            halved.run(Progress())
            assert used == {torch.bfloat16}
            assert {weight.dtype for weight in halved.learner.model.parameters()} == {torch.float32}
            if here.first:
                save_file(result(halved), folder / f"{name}-halved.safetensors")
            else:
                halved.validate()
            poisoned = learner()
            if not here.first:
                poison(poisoned, 1)
            loop = loop_of(poisoned, folder / f"{name}-poisoned", here, sharded=True, precision="float16")
            loop.run(Progress())
            assert loop.watch.left_out == [1]
            assert loop.optimizers.scale is not None
            assert loop.optimizers.scale.factor == 2.0**15
            resumed = [("stopped", 2)]
            if name == "vae":
                resumed.append(("sharded", STEPS))  # done, but for what it is to write
            for kind, start in resumed:
                loop = loop_of(learner(), folder / f"{name}-{kind}", here, sharded=True)
                assert loop.resume.step() == start
                loop.run(Progress(start))
                if here.first:
                    save_file(result(loop), folder / f"{name}-{kind}-resumed.safetensors")
                else:
                    loop.validate()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("weights can be sharded from torch 2.6 on")
    folder = tmp_path_factory.mktemp("two")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, str(folder)]
    done = subprocess.run(
        [sys.executable, *torchrun], capture_output=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return folder


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=1e-4, atol=2e-5), name


@pytest.mark.parametrize("layout", ["replicated", "sharded"])
def test_two_processes_end_where_one_does_with_twice_the_batch(trained: Path, tmp_path: Path, layout: str) -> None:
    loop = loop_of(Heads(), tmp_path / "one", World(), batch_size=4)
    before = {name: weight.clone() for name, weight in loop.learner.model.state_dict().items()}
    loop.run(Progress())
    one = result(loop)
    assert_close(one, load_file(trained / f"heads-{layout}.safetensors"))
    moved = {name for name, weight in before.items() if not torch.equal(weight, one[f"weights.{name}"])}
    assert before.keys() - moved == {"vector.null"}


def test_shards_end_where_replicas_do_with_a_discriminator_too(trained: Path) -> None:
    replicated, sharded = (load_file(trained / f"vae-{layout}.safetensors") for layout in ("replicated", "sharded"))
    assert_close(replicated, sharded)


@pytest.mark.parametrize("name", LEARNERS)
def test_shards_that_travel_in_half_the_bytes_end_near_those_that_do_not(
    trained: Path, tmp_path: Path, name: str
) -> None:
    loop = loop_of(LEARNERS[name](), tmp_path / "one", World(), batch_size=4, precision="bfloat16", steps=1)
    before = {f"weights.{name}": weight.clone() for name, weight in loop.learner.model.state_dict().items()}
    loop.run(Progress())
    one, halved = result(loop), load_file(trained / f"{name}-halved.safetensors")
    moves = [torch.cat([(end[key] - value).flatten() for key, value in before.items()]) for end in (one, halved)]
    assert torch.nn.functional.cosine_similarity(*moves, dim=0) > 0.9
    torch.testing.assert_close(halved["figures.validation_loss"], one["figures.validation_loss"], rtol=0.02, atol=0)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_sharded_training_that_was_stopped_ends_with_the_same_bits(trained: Path, name: str) -> None:
    whole = load_file(trained / f"{name}-sharded.safetensors")
    for path in trained.glob(f"{name}-*-resumed.safetensors"):
        resumed = load_file(path)
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(value, resumed[key]) for key, value in whole.items()), path.name


@pytest.mark.parametrize("name", LEARNERS)
def test_the_state_of_shards_is_that_of_replicas(trained: Path, name: str) -> None:
    replicated, sharded = (load_file(trained / f"{name}-{layout}.resume") for layout in ("replicated", "sharded"))
    assert {key: value.shape for key, value in replicated.items()} == {key: v.shape for key, v in sharded.items()}
    assert_close(replicated, sharded)


def test_one_process_shards_nothing_and_says_so(tmp_path: Path, reporter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for sharded in (False, True):
        loop = loop_of(Heads(), tmp_path / str(sharded), World(), sharded=sharded, steps=1)
        loop.run(Progress())
        results.append(result(loop))
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())
    monkeypatch.setattr(Silent, "say", lambda self, message: reporter.say(message))
    loop_of(Heads(), tmp_path / "said", World(), sharded=True)
    assert any("torchrun" in line for line in reporter.told)


def test_sharding_is_part_of_what_a_training_of_several_processes_is() -> None:
    options = TrainingOptions(loop=LoopOptions(sharded=True))
    assert "sharded" not in decisive(options, {"precision": "float32"}, 1)["loop"]
    assert decisive(options, {"precision": "float32"}, 2)["loop"]["sharded"] is True


@pytest.mark.parametrize(
    ("changes", "device", "told"),
    [
        ({"WORLD_SIZE": "two"}, "cpu", "start several processes with torchrun"),
        ({"LOCAL_RANK": ""}, "cpu", "not all of RANK, LOCAL_RANK and MASTER_PORT"),
        ({"MASTER_PORT": ""}, "cpu", "not all of RANK, LOCAL_RANK and MASTER_PORT"),
        ({"LOCAL_RANK": "3"}, "cuda", "process 3 of this machine finds 2 GPUs; start no more processes than those"),
    ],
)
def test_processes_that_cannot_join_are_told_before_they_wait(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], device: str, told: str
) -> None:
    for name, value in {
        **dict.fromkeys(("RANK", "LOCAL_RANK", "MASTER_PORT"), "1"),
        "WORLD_SIZE": "2",
        **changes,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=told), world(torch.device(device)):
        pass


def test_a_torch_without_sharding_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", None)
    with pytest.raises(UnavailableError, match=r"torch 2\.6"):
        shard(nn.Linear(1, 1), lambda: None, World(0, 2), CPU)


if __name__ == "__main__":
    in_two_processes(Path(sys.argv[1]))
