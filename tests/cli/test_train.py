"""The training commands as real processes: killed, gone on with, in several processes, misused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from medgen.artifacts.model_file import open_model
from medgen.cli.app import run

Medgen = Callable[..., "subprocess.CompletedProcess[bytes]"]

UNET = (
    "network.widths=[16,32]", "network.blocks=1", 'network.attention=["none","linear"]', 'network.mid_attention="none"',
    "network.head_width=16", "network.time_width=32", "network.groups=8", "network.vector_hidden=16",
)  # fmt: skip
VAE = ("network.widths=[8,16]", "network.blocks=1", "network.latent_channels=2")
LOOP = ('loop.precision="float32"', "loop.validation_samples=4", "loop.log_every=1", "loop.save_every=2")
COMMON = [word for item in LOOP for word in ("--set", item)]


def options(*items: str) -> list[str]:
    return COMMON + [word for item in items for word in ("--set", item)]


def start(arguments: Sequence[object], **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "medgen.cli.app", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def in_two_processes(arguments: Sequence[object]) -> subprocess.Popen[bytes]:
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "medgen.cli.app"]
    return subprocess.Popen(
        [sys.executable, "-m", *torchrun, *map(str, arguments)],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_step(log: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was never logged")


def test_killed_and_terminated_the_same_command_ends_with_the_same_bytes(
    make_set: Callable[..., Path], tmp_path: Path, medgen: Medgen, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_set(count=6, size=16)

    def command(name: str) -> list[object]:
        files = ["-o", tmp_path / f"{name}.safetensors", "--log", tmp_path / f"{name}.jsonl"]
        return ["train-diffusion", source, *files, "--steps", 60, "--batch-size", 2, *options(*UNET)]

    assert run([str(word) for word in command("whole")]) == 0
    assert capsys.readouterr().out == ""

    for number, step in ((signal.SIGKILL, 6), (signal.SIGTERM, 14)):
        process = start(command("parts"))
        wait_for_step(tmp_path / "parts.jsonl", step)
        process.send_signal(number)
        message = process.communicate(timeout=60)[1].decode()
        assert process.returncode == (-9 if number == signal.SIGKILL else 143), message
        assert not (tmp_path / "parts.safetensors").exists()
        assert (tmp_path / "parts.safetensors.resume").exists()
    assert "the same command continues from there" in message.splitlines()[-1]
    last = medgen(*command("parts"))
    assert last.returncode == 0, last.stderr
    assert b"medgen train-diffusion: going on after step" in last.stderr
    assert (tmp_path / "parts.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "parts.jsonl", "parts.safetensors", "set.h5", "whole.jsonl", "whole.safetensors",
    ]  # fmt: skip
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts.jsonl").read_text().splitlines()[1:-1]]
    assert steps == list(range(1, 61))


def test_a_set_through_a_pipe_trains_like_a_file(make_set: Callable[..., Path], tmp_path: Path, medgen: Medgen) -> None:
    source = make_set(count=3, size=16)
    merged = tmp_path / "merged.h5"
    assert medgen("merge", source, "-o", merged).returncode == 0
    stream = medgen("merge", source).stdout
    settings = ["--steps", "2", *options(*VAE)]
    assert run(["train-vae", str(merged), "-o", str(tmp_path / "file.safetensors"), *settings]) == 0
    piped = medgen("train-vae", "-o", tmp_path / "pipe.safetensors", *settings, input=stream)
    assert piped.returncode == 0, piped.stderr
    assert (tmp_path / "pipe.safetensors").read_bytes() == (tmp_path / "file.safetensors").read_bytes()


def test_two_processes_equal_one_with_twice_the_batch(make_set: Callable[..., Path], tmp_path: Path) -> None:
    source = make_set(count=6, size=16)

    def arguments(name: str, batch: int) -> list[object]:
        files = ["-o", tmp_path / f"{name}.safetensors", "--log", tmp_path / f"{name}.jsonl"]
        return ["train-diffusion", source, *files, "--steps", 4, "--batch-size", batch, *options(*UNET)]

    assert run([str(word) for word in arguments("one", 4)]) == 0
    done = in_two_processes([*arguments("two", 2), "--report", tmp_path / "report.json"])
    told = done.communicate(timeout=200)[1].decode()
    assert done.returncode == 0, told[-2000:]
    assert "validation_loss" in json.loads((tmp_path / "report.json").read_text()), "written by another than the first"
    assert told.count("medgen train-diffusion: wrote") == 1
    logs = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()[1:]]
        for name in ("one", "two")
    ]
    for one, two in zip(*logs, strict=True):
        for name in ("loss", "gradient_norm", "validation_loss"):
            if name in one:
                assert two[name] == pytest.approx(one[name], rel=1e-4), (name, one["step"])
    weights = [open_model(tmp_path / f"{name}.safetensors").weights() for name in ("one", "two")]
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-5), name


def test_sharded_and_one_process_killed_the_same_command_ends_with_the_same_bytes(
    make_set: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_set(count=6, size=16)

    def command(name: str) -> list[object]:
        files = ["-o", tmp_path / f"{name}.safetensors", "--log", tmp_path / f"{name}.jsonl"]
        small = options(*VAE, "network.widths=[8]", "loop.sharded=true")
        return ["train-vae", source, *files, "--steps", 8, "--batch-size", 2, *small]

    parts = in_two_processes(command("parts"))
    wait_for_step(tmp_path / "parts.jsonl", 3)
    workers = Path(f"/proc/{parts.pid}/task/{parts.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    told = parts.communicate(timeout=60)[1].decode()
    assert parts.returncode != 0
    assert "medgen train-vae: another process of this training has ended" in told
    assert "internal error" not in told
    assert not (tmp_path / "parts.safetensors").exists()
    (tmp_path / "one.safetensors.resume").write_bytes((tmp_path / "parts.safetensors.resume").read_bytes())
    for name in ("parts", "whole"):
        done = in_two_processes(command(name))
        told = done.communicate(timeout=200)[1].decode()
        assert done.returncode == 0, told[-2000:]
        assert told.count("medgen train-vae: going on after step") == (name == "parts")
    assert (tmp_path / "parts.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()

    one = [str(word) for word in command("one")]
    assert run(one) == 78
    assert run([*one, "--continue-with", "processes=1", "--continue-with", "loop.batch_size=4"]) == 0
    ends = [open_model(tmp_path / f"{name}.safetensors").facts["validation_loss"] for name in ("one", "whole")]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


def test_it_goes_on_as_the_error_says_or_ends_with_what_there_is(
    make_set: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, model, state = make_set(count=6, size=16), tmp_path / "m.safetensors", tmp_path / "m.safetensors.resume"
    command = ["train-diffusion", source, "-o", model, "--steps", 2000, "--batch-size", 2, *options(*UNET)]
    process = start([*command, "--log", tmp_path / "log.jsonl"])
    wait_for_step(tmp_path / "log.jsonl", 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    kept = state.read_bytes()

    words = [str(word) for word in command]
    assert run([*words, "--learning-rate", "1e-5"]) == 78
    told = capsys.readouterr().err.splitlines()[-1]
    flag = next(word for word in told.split() if word.startswith("loop.learning_rate="))
    done = int(told.split("stopped after step ")[1].split()[0])
    assert run([*words, "--continue-with", flag, "--continue-with", f"loop.steps={done + 2}"]) == 0
    config = open_model(model).provenance.steps[-1].config
    assert config["earlier"] == [{"until": done, "loop.learning_rate": 1e-4, "loop.steps": 2000}]
    assert (config["loop"]["learning_rate"], config["loop"]["steps"]) == (1e-5, done + 2)

    model.unlink()
    state.write_bytes(kept)
    assert run([*words, "--finish"]) == 0
    assert open_model(model).provenance.steps[-1].config["finished_after"] == done
    model.unlink()
    for wish in (["--finish"], ["--continue-with", "loop.steps=9"]):
        assert run([*words, *wish]) == 66
    assert run([*words, "--continue-with", "objective=v"]) == 78
    assert run([*words, "--continue-with", "loop.steps"]) == 78


def test_misuse_is_told_in_one_sentence(
    make_set: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_set(count=3, size=16)
    output = tmp_path / "out.safetensors"
    cases = [
        (["train-vae", tmp_path / "none.h5", "-o", output], 66, "no such file"),
        (["train-vae", source, "-o", tmp_path / "no" / "out"], 73, "create it first"),
        (["train-vae", source, "-o", output, "--set", "loop.step=3"], 78, "did you mean 'steps'"),
        (["train-vae", source, "-o", output, "--decoder-only"], 78, "--init"),
        (["train-vae", source, "-o", output, "--init", tmp_path / "none"], 66, "none"),
        (["train-vae", source, "-o", output, "--device", "cuda:99"], 69, "cpu"),
        (["train-diffusion", source, "-o", output, "--set", "balance.field=size"], 65, "field0"),
        (["train-diffusion", source, "-o", output, "--objective", "noise"], 78, "objective"),
    ]
    for arguments, status, words in cases:
        returned = run([str(word) for word in arguments])
        last = capsys.readouterr().err.splitlines()[-1]
        assert returned == status, last
        assert words in last
        assert not output.exists()
    assert run(["train-vae", str(source), "-o", str(output), "--steps", "7", "--print-config"]) == 0
    assert "steps = 7" in capsys.readouterr().out
