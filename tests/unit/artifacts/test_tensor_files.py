"""Models and states of trainings: no flipped bit passes, weights are finite, and files of medgen 0.1 are still read."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medgen.artifacts.model_file import ModelFile, open_model, save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.tensors.file import not_finite
from medgen.errors import DataError, StorageError
from medgen.training.loop.resume import Identity, Progress, ResumeFile, State

IDENTITY = Identity("0.1.0", "train-vae", 0, {"loop": {"steps": 5}}, {"a": "b"})
WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "scale": torch.ones(3, dtype=torch.bfloat16)}


def write_model(path: Path, **changes: Any) -> ModelFile:
    settings: dict[str, Any] = {
        "kind": "vae",
        "config": {"widths": (1, 2)},
        "weights": WEIGHTS,
        "ema": {name: tensor + 1 for name, tensor in WEIGHTS.items()},
        "facts": {"latent_scale": 0.5},
        "provenance": derive("train-vae", {}, seed=0),
    }
    return save_model(path, **{**settings, **changes})


def write_state(path: Path) -> Path:
    state = ResumeFile(path, IDENTITY)
    moments = {"optimizer.0.exp_avg": torch.ones(2, 3), "optimizer.0.step": torch.tensor(3.0)}
    state.save({f"model.{name}": tensor for name, tensor in WEIGHTS.items()} | moments, Progress(3))
    return state.path


def without_checksums(path: Path) -> Path:
    """Write a file again as medgen 0.1 wrote it."""
    with safe_open(path, framework="pt") as file:
        facts = msgspec.json.decode(file.metadata()["medgen"])
    del facts["checksum"], facts["checksums"]
    save_file(load_file(path), path, metadata={"medgen": msgspec.json.encode(facts, order="sorted").decode()})
    return path


def passes(path: Path, read: Callable[[Path], Any]) -> list[int]:
    """Bytes of a file in which a flipped bit is not noticed by `read`."""
    whole = path.read_bytes()
    unnoticed = []
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            read(path)
        except DataError:
            continue
        unnoticed.append(place)
    path.write_bytes(whole)
    read(path)
    return unnoticed


def test_no_flipped_bit_of_a_model_passes(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.safetensors", ema=None)
    assert passes(model.path, lambda path: open_model(path).weights()) == []
    model = write_model(tmp_path / "averaged.safetensors")
    assert passes(model.path, lambda path: open_model(path).verify()) == []


def test_no_flipped_bit_of_a_state_passes(tmp_path: Path) -> None:
    assert passes(write_state(tmp_path / "out"), lambda path: State.open(path).tensors()) == []


def test_safetensors_reads_what_we_write(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.safetensors")
    theirs = load_file(model.path)
    assert theirs.keys() == model.header.tensors.keys()
    for name, tensor in model.weights(ema=False).items():
        assert torch.equal(theirs[f"model.{name}"], tensor)
        assert torch.equal(tensor, WEIGHTS[name])


def test_models_of_medgen_0_1_are_read_and_their_damage_is_noticed(tmp_path: Path) -> None:
    path = without_checksums(write_model(tmp_path / "old.safetensors").path)
    assert torch.equal(open_model(path).weights(ema=False)["weight"], WEIGHTS["weight"])
    open_model(path).verify()
    whole = path.read_bytes()
    for place in range(8 + int.from_bytes(whole[:8], "little"), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(DataError, match="digest"):
            open_model(path).weights()


def test_states_of_medgen_0_1_are_read_and_known_as_such(tmp_path: Path) -> None:
    path = write_state(tmp_path / "out")
    assert State.open(path).checked
    without_checksums(path)
    assert not State.open(path).checked
    assert torch.equal(State.open(path).tensors()["model.weight"], WEIGHTS["weight"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    bad = {**WEIGHTS, "weight": WEIGHTS["weight"].clone()}
    bad["weight"][1, 2] = value
    for changes in ({"weights": bad}, {"ema": bad}):
        with pytest.raises(DataError, match=r"'(model|ema)\.weight' is not finite"):
            write_model(tmp_path / "new.safetensors", **changes)
    state = ResumeFile(tmp_path / "new.safetensors", IDENTITY)
    write_state(tmp_path / "new.safetensors")
    with pytest.raises(DataError, match=r"step 4: weight 'model.weight' .* \(the state after step 3 is kept in"):
        state.save({"model.weight": bad["weight"]}, Progress(4))
    state.save({"model.weight": WEIGHTS["weight"], "optimizer.0.exp_avg_sq": bad["weight"]}, Progress(4))
    assert state.step() == 4


def test_weights_of_older_files_that_are_not_finite_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"weight": torch.tensor([1.0, float("nan")])}
    with monkeypatch.context() as careless:
        careless.setattr("medgen.artifacts.model_file.not_finite", lambda _: None)
        careless.setattr("medgen.training.loop.resume.not_finite", lambda _: None)
        write_model(tmp_path / "m.safetensors", weights=bad, ema=None)
        ResumeFile(tmp_path / "m.safetensors", IDENTITY).save({"model.weight": bad["weight"]}, Progress(3))
    for format_of in (lambda path: path, without_checksums):
        model = open_model(format_of(tmp_path / "m.safetensors"))
        state = State.open(format_of(tmp_path / "m.safetensors.resume"))
        for read in (model.weights, model.verify, state.tensors):
            with pytest.raises(DataError, match=r"weight 'model\.weight' is not finite"):
                read()


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_weights_are_told_from_others_in_every_type(kind: torch.dtype) -> None:
    good = {"none": torch.zeros(0), "count": torch.tensor(3), "weight": torch.tensor([[-1.0, 0.5]]).to(kind)}
    assert not_finite(good) is None
    assert not_finite({**good, "bad": torch.tensor([0.0, float("nan")]).to(kind)}) == "bad"


def test_a_full_disk_keeps_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_state(tmp_path / "out")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("medgen.training.loop.resume.write_tensors", full)
    state = ResumeFile(tmp_path / "out", IDENTITY)
    with pytest.raises(StorageError, match=r"No space left on device.*the state after step 3 is kept in"):
        state.save({"model.weight": torch.zeros(2)}, Progress(4))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
