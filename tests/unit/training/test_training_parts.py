"""The moving average, the log, and the resume file on their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from medgen.errors import ConfigError, DataError, OutputError, StorageError, UnavailableError
from medgen.training.learners.vae_options import TrainVAEOptions
from medgen.training.loop.continuation import Wish, continuation
from medgen.training.loop.ema import MovingAverage
from medgen.training.loop.log import Log
from medgen.training.loop.resume import Identity, Progress, ResumeFile, pack, unpack


def test_the_average_follows_its_formula_and_changes_places_exactly() -> None:
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    nn.init.constant_(model.weight, 0.0)
    average = MovingAverage(model, decay=0.5)
    expected = 0.0
    for step, value in enumerate((4.0, 2.0, 7.0, 1.0)):
        nn.init.constant_(model.weight, value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert list(average.state()) == ["weight"]
    kept = average.state()["weight"].clone()
    assert float(kept) == pytest.approx(expected)
    with average.in_place():
        assert torch.equal(model.weight, kept)
    assert model.weight.item() == 1.0
    assert torch.equal(average.state()["weight"], kept)


IDENTITY = Identity("1", "train-vae", 0, {"loop": {"steps": 5}, "flip": False}, {"a": "b"})


def test_state_comes_back_and_belongs_to_one_training(tmp_path: Path) -> None:
    def trained(steps: int) -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        return model, optimizer

    model, optimizer = trained(3)
    state = ResumeFile(tmp_path / "out.safetensors", IDENTITY)
    assert state.step() == 0
    state.save(pack(model, optimizer, {"weight": torch.ones(2)}), Progress(3, 24, (1,)))
    assert state.step() == 3
    assert state.path.name == "out.safetensors.resume"

    other, other_optimizer = trained(1)
    average = {"weight": torch.zeros(2)}
    unpack(state.load(), other, other_optimizer, average)
    assert torch.equal(other.weight, model.weight)
    assert average["weight"].tolist() == [1, 1]
    before, after = optimizer.state_dict(), other_optimizer.state_dict()
    for index, moments in before["state"].items():
        for name, value in moments.items():
            assert torch.equal(after["state"][index][name], value)

    changed = Identity("1", "train-vae", 0, {"loop": {"steps": 9}, "flip": False}, {"a": "c"})
    with pytest.raises(
        ConfigError, match=r"after step 3 \(the input .* not the same; loop.steps was 5, is now 9\).*--fresh"
    ):
        continuation(ResumeFile(tmp_path / "out.safetensors", changed), Wish(), TrainVAEOptions)
    assert continuation(state, Wish(), TrainVAEOptions).progress == Progress(3, 24, (1,))

    state.path.write_bytes(state.path.read_bytes()[:50])
    with pytest.raises(DataError, match="--fresh"):
        state.step()
    (tmp_path / ".out.safetensors.resume.0123.partial").touch()
    state.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_gone_on_with_by_its_own_training_alone(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    log = Log(file, None, run="one", start=0, force=False)
    for step in range(1, 5):
        log.write(step, {"loss": 1.0})
    log.close()
    with file.open("a") as stream:
        stream.write('{"step": 5, "lo')  # a kill in mid-line
    Log(file, None, run="one", start=3, force=False).close()
    assert [json.loads(line).get("step") for line in file.read_text().splitlines()] == [None, 1, 2, 3]
    with pytest.raises(OutputError, match="--force"):
        Log(file, None, run="two", start=0, force=False)
    Log(file, None, run="two", start=0, force=True).close()
    assert file.read_text() == '{"run": "two"}\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_log_on_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", None, run="one", start=0, force=False)
    told = r"log\.jsonl: the log cannot be written: No space left on device; free some space"
    with Path("/dev/full").open("w", buffering=1) as full:
        log._stream = full
        for write in (lambda: log.write(1, {"loss": 1.0}), log.close):
            with pytest.raises(StorageError, match=told):
                write()
    again = Log(tmp_path / "log.jsonl", None, run="one", start=0, force=False)
    again.close()
    assert (tmp_path / "log.jsonl").read_text() == '{"run": "one"}\n'


def test_tensorboard_is_asked_for_only_when_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    Log(None, None, run="one", start=0, force=False).close()
    with pytest.raises(UnavailableError, match=r"pip install 'medgen\[tensorboard\]'"):
        Log(None, tmp_path / "board", run="one", start=0, force=False)

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            self.scalars: list[tuple[str, float, int]] = []
            boards.append((folder, purge_step, self.scalars))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars.append((name, value, step))

        def close(self) -> None:
            self.scalars.append(("closed", 0, 0))

    boards: list[tuple[str, int | None, list[tuple[str, float, int]]]] = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    log = Log(None, tmp_path / "board", run="one", start=7, force=False)
    log.write(8, {"loss": 0.5})
    log.close()
    assert boards == [(str(tmp_path / "board"), 8, [("loss", 0.5, 8), ("closed", 0, 0)])]
