"""Model files: same content, same bytes; damage and mix-ups are named; nothing is ever unpickled."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from medgen.artifacts.model_file import ModelFile, open_model, save_model
from medgen.artifacts.model_record import read_record
from medgen.artifacts.provenance import derive
from medgen.artifacts.tensors.foreign import read_weights
from medgen.errors import DataError, InputMissingError


def save(path: Path, **changes: Any) -> ModelFile:
    weights = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2, dtype=torch.bfloat16)}
    settings: dict[str, Any] = {
        "kind": "vae",
        "config": {"widths": (1, 2), "z": 1, "a": 2},
        "weights": weights,
        "ema": {name: tensor + 1 for name, tensor in weights.items()},
        "facts": {"latent_scale": 0.5},
        "provenance": derive("train-vae", {}, seed=0),
        "force": True,
    }
    return save_model(path, **{**settings, **changes})


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    save(tmp_path / "one.safetensors")
    save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    model = open_model(tmp_path / "one.safetensors", kind="vae")
    model.verify()
    assert model.config["widths"] == [1, 2]
    assert torch.equal(model.weights(ema=False)["b"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(model.weights()["b"], torch.arange(6.0).reshape(2, 3) + 1)
    record, header = read_record(tmp_path / "one.safetensors")
    assert record.digest == model.digest
    assert header.tensors["model.a"].shape == (2,)


def test_digest_follows_weights_config_and_facts(tmp_path: Path) -> None:
    base = save(tmp_path / "m.safetensors").digest
    assert save(tmp_path / "m.safetensors", facts={"latent_scale": 0.6}).digest != base
    assert save(tmp_path / "m.safetensors", config={}).digest != base
    assert save(tmp_path / "m.safetensors", weights={"b": torch.zeros(2, 3)}).digest != base
    assert save(tmp_path / "m.safetensors").digest == base


def test_weights_in_use_are_not_those_of_a_file_that_is_overwritten(tmp_path: Path) -> None:
    model = save(tmp_path / "m.safetensors")
    weights = model.weights()
    with model.path.open("r+b") as file:  # as cp does, in place
        file.write(bytes(model.path.stat().st_size))
    assert torch.equal(weights["b"], torch.arange(6.0).reshape(2, 3) + 1)


def test_a_name_that_safetensors_cannot_open_is_no_damage(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path / "m") + b"\xff.safetensors"))
    for read in (save(path).weights, lambda: read_weights(path)):
        with pytest.raises(DataError, match=r"its name is not UTF-8, as safetensors wants it; rename"):
            read()


def test_damage_and_mix_ups(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save(path)
    with pytest.raises(DataError, match="kind 'vae'; expected 'denoiser'"):
        open_model(path, kind="denoiser")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="truncated"):
        open_model(path)
    path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    for read in (ModelFile.verify, lambda model: model.weights(ema=False)):
        with pytest.raises(DataError, match="checksum"):
            read(open_model(path))
    with pytest.raises(InputMissingError):
        open_model(tmp_path / "none.safetensors")


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "exploded",)

    (tmp_path / "m.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError):
        open_model(tmp_path / "m.safetensors")
    torch.save({"weight": torch.ones(1)}, tmp_path / "t.safetensors")
    with pytest.raises(DataError):
        open_model(tmp_path / "t.safetensors")
    assert not (tmp_path / "exploded").exists()
