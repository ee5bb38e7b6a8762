"""A flipped bit ends every command that meets it with 65, and nothing is written; a full disk ends it with 74."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medgen.cli.app import run


def flip(source: Path, target: Path, place: int) -> str:
    """A copy of a file with one bit flipped in the byte at `place` (from the end where negative)."""
    content = bytearray(source.read_bytes())
    content[place] ^= 4
    target.write_bytes(content)
    return str(target)


@pytest.mark.parametrize("damaged", ["model", "vae"])
def test_damaged_weights_make_no_samples(
    tiny: Path, tmp_path: Path, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: str(tiny / f"{name}.safetensors") for name in ("model", "vae")}
    files[damaged] = flip(Path(files[damaged]), tmp_path / "damaged.safetensors", -1000)
    output = tmp_path / "samples.h5"
    assert run(["generate", files["model"], "--vae", files["vae"], "-n", "1", "--steps", "1", "-o", str(output)]) == 65
    assert "damaged.safetensors: damaged: tensor '" in capsys.readouterr().err
    assert run(["check", files[damaged]]) == 65
    assert not output.exists()


TRAINING = (
    "--steps", "2", "--batch-size", "2", "--set", "network.widths=[8,16]", "--set", "network.blocks=1", "--set",
    "network.latent_channels=2", "--set", 'loop.precision="float32"', "--set", "loop.validation_samples=2",
)  # fmt: skip


def test_a_training_on_a_full_disk_keeps_its_state_and_goes_on_with_no_damaged_one(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "vae.safetensors"
    command = ["train-vae", str(make_set()), "-o", str(output), *TRAINING]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr("medgen.artifacts.model_file.write_tensors", full)
        assert run(command) == 74
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    state = tmp_path / "vae.safetensors.resume"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.h5", state.name]
    assert run(["check", str(state)]) == 0
    assert "state of train-vae after step 2, whole" in capsys.readouterr().err

    whole = state.read_bytes()
    flip(state, state, -1000)
    assert run(command) == 65
    assert "start over with --fresh" in capsys.readouterr().err
    assert run(["check", str(state)]) == 65
    state.write_bytes(whole)
    assert run(command) == 0
    assert "going on after step 2 of 2" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.h5", output.name]

    first = 8 + int.from_bytes(output.read_bytes()[:8], "little")
    assert run([*command[:3], str(tmp_path / "b.safetensors"), "--init", flip(output, output, first), *TRAINING]) == 65
    assert not (tmp_path / "b.safetensors").exists()
