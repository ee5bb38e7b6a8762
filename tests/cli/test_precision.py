"""Precision on the command line: what "auto" came to is recorded and told, and shards are of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from medgen.artifacts.sets import open_set
from medgen.cli.app import run
from medgen.models.timing import Times
from medgen.nets.kernels import Kernels
from medgen.nets.options import VAEConfig


@pytest.fixture(autouse=True)
def the_vae_alone_is_faster_in_bfloat16(monkeypatch: pytest.MonkeyPatch, nothing_is_faster: None) -> None:
    def measured(network: object, training: bool) -> Times:
        return Times(2.0, 1.0) if isinstance(network, VAEConfig) else Times(1.0, 1.0)

    monkeypatch.setattr("medgen.models.precision.measured", measured)
    monkeypatch.setattr("medgen.models.precision.is_small", lambda network: False)


def precision_of(path: Path) -> object:
    with open_set(path) as reader:
        return reader.provenance.steps[-1].config["precision"]


def encode(tiny: Path, output: Path, *more: str) -> int:
    return run(
        ["extract-latents", str(tiny / "images.h5"), "--vae", str(tiny / "vae.safetensors"), "-o", str(output), *more]
    )


def test_each_network_has_its_own_and_the_provenance_and_verbose_tell_it(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert encode(tiny, tmp_path / "z.h5") == 0
    assert precision_of(tmp_path / "z.h5") == "bfloat16"
    command = ["generate", str(tiny / "model.safetensors"), "--vae", str(tiny / "vae.safetensors"), "--steps", "1"]
    capfd.readouterr()
    assert run([*command, "-o", str(tmp_path / "s.h5"), "-v"]) == 0
    assert precision_of(tmp_path / "s.h5") == "float32, bfloat16"
    told = capfd.readouterr().err
    assert "model.safetensors runs in float32, since bfloat16 is 1.00 times as fast as float32 here" in told
    assert "vae.safetensors runs in bfloat16, since bfloat16 is 2.00 times as fast as float32 here" in told
    monkeypatch.setattr("medgen.models.trained.measured_kernels", lambda network, dtype: Kernels(channels_last=False))
    assert run([*command, "-o", str(tmp_path / "u.h5"), "-v"]) == 0
    assert capfd.readouterr().err.count("a clear lead; with the plain layout") == 2
    assert run([*command, "-o", str(tmp_path / "t.h5"), "--precision", "float32"]) == 0
    assert precision_of(tmp_path / "t.h5") == "float32"
    assert "runs in" not in capfd.readouterr().err


def test_shards_are_not_measured_but_of_one_precision(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shards = [tmp_path / f"{part}.h5" for part in range(2)]
    for part, shard in enumerate(shards):
        assert encode(tiny, shard, "--shard", f"{part}/2") == 0
        assert precision_of(shard) == "float32"
    assert "--precision, given to all, sets another" in capfd.readouterr().err
    assert encode(tiny, tmp_path / "whole.h5", "--precision", "float32") == 0
    assert run(["merge", *map(str, shards), "-o", str(tmp_path / "joined.h5")]) == 0
    assert (tmp_path / "joined.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_shards_of_two_precisions_are_not_joined(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shards = [str(tmp_path / f"{part}.h5") for part in range(2)]
    for part, name in enumerate(("bfloat16", "float32")):
        assert encode(tiny, Path(shards[part]), "--shard", f"{part}/2", "--precision", name) == 0
    capfd.readouterr()
    assert run(["merge", *shards, "-o", str(tmp_path / "joined.h5")]) == 65
    told = capfd.readouterr().err
    assert "1.h5: was made in float32, " in told
    assert "0.h5 in bfloat16; make all shards again with one --precision" in told
    # Shards that differ in more than that are still of another job.
    other = str(tmp_path / "other.h5")
    assert encode(tiny, Path(other), "--shard", "1/2", "--precision", "float32", "--sample") == 0
    capfd.readouterr()
    assert run(["merge", shards[0], other, "-o", str(tmp_path / "joined.h5")]) == 65
    assert "is shard 1/2 of another job" in capfd.readouterr().err
