from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medgen.artifacts.sets import open_set
from medgen.cli.app import run

Medgen = Callable[..., subprocess.CompletedProcess[bytes]]


def arguments(tiny: Path, output: Path | str, *more: str) -> list[str]:
    base = ["generate", str(tiny / "model.safetensors"), "--vae", str(tiny / "vae.safetensors"), "-o", str(output)]
    return [*base, "--steps", "2", *more]


def test_samples_are_in_hu_with_the_vector_asked(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "s.h5"
    assert run(arguments(tiny, output, "-n", "3", "--vector", "has_nodule=1,x=0.25,size=0.5")) == 0
    with open_set(output, random_access=True) as stored:
        assert stored.header.intensity is not None
        assert stored.header.intensity.unit == "HU"
        assert stored.header.vector_fields == ("has_nodule", "x", "y", "size", "malignancy", "texture")
        assert [row.id for row in stored.cases] == ["sample-000000", "sample-000001", "sample-000002"]
        assert stored.cases[0].spacing == (2.0, 0.7, 0.7)
        np.testing.assert_allclose(stored.column("vector"), [[1, 0.25, 0, 0.5, 0, 0]] * 3)
        images = stored.read("image", range(3))
        assert images.dtype == np.int16
        assert images.min() >= -1000
        assert images.max() <= 400
        assert len(np.unique(images)) > 100
        assert "train-diffusion" in [step.command for step in stored.provenance.steps]


def test_the_same_command_gives_the_same_bytes_and_a_pipe_the_same_content(
    medgen: Medgen, tiny: Path, tmp_path: Path
) -> None:
    for name in ("a.h5", "b.h5"):
        assert medgen(*arguments(tiny, tmp_path / name, "-n", "3", "--seed", "5")).returncode == 0
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    piped = medgen(*arguments(tiny, "-", "-n", "3", "--seed", "5"))
    assert piped.returncode == 0
    (tmp_path / "c").write_bytes(piped.stdout)
    with open_set(tmp_path / "a.h5") as first, open_set(tmp_path / "c") as second:
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])


def test_shards_join_into_the_unsharded_result(tiny: Path, tmp_path: Path) -> None:
    more = ["-n", "7", "--vector", "has_nodule=1,y=0.5"]
    assert run(arguments(tiny, tmp_path / "whole.h5", *more, "--batch-size", "4")) == 0
    shards = [str(tmp_path / f"{part}.h5") for part in range(3)]
    for part, shard in enumerate(shards):
        assert run(arguments(tiny, shard, *more, "--shard", f"{part}/3", "--batch-size", "3")) == 0
    assert run(["merge", *shards, "-o", str(tmp_path / "joined.h5")]) == 0
    assert (tmp_path / "joined.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_conditions_come_from_a_csv_or_a_set(tiny: Path, tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    table.write_text("x,has_nodule\n0.25,1\n0,0\n0.5,1\n", encoding="utf-8")
    assert run(arguments(tiny, tmp_path / "a.h5", "--conditions", str(table))) == 0
    with open_set(tmp_path / "a.h5", random_access=True) as stored:
        np.testing.assert_allclose(stored.column("vector")[:, :2], [[1, 0.25], [0, 0], [1, 0.5]])
    images = tiny / "images.h5"
    assert run(arguments(tiny, tmp_path / "b.h5", "--like", str(images), "--like-split", "val")) == 0
    with open_set(tmp_path / "b.h5", random_access=True) as stored, open_set(images, random_access=True) as like:
        np.testing.assert_array_equal(stored.column("vector"), like.column("vector")[[3, 6, 7, 8, 9]])
        assert like.provenance.id in [step.id for step in stored.provenance.steps]


def test_unconditional_samples_have_no_vector(tiny: Path, tmp_path: Path) -> None:
    assert run(arguments(tiny, tmp_path / "a.h5", "--unconditional")) == 0
    with open_set(tmp_path / "a.h5", random_access=True) as stored:
        assert stored.slices == 1
        assert not stored.has("vector")
        assert stored.header.vector_fields == ()


def test_image_space_models_need_no_vae(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.h5"
    assert run(["generate", str(tiny / "pixels.safetensors"), "-n", "2", "--steps", "2", "-o", str(output)]) == 0
    with open_set(output, random_access=True) as stored:
        assert stored.read("image", [0]).shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        (["--vector", "has_nodul=1"], 2, "did you mean 'has_nodule'"),
        (["--vector", "x=1.01"], 2, "lies outside [0, 1]"),
        (["--vector", "x=nan"], 2, "lies outside [0, 1]"),
        (["--vector", "x=0.1", "--unconditional"], 2, "exclude each other"),
        (["--vector", "x=0.1", "--like", "{tiny}/images.h5"], 2, "exclude each other"),
        (["--negative-vector", "x=0.1"], 2, "--negative-vector needs a condition"),
        (["--like-split", "val"], 2, "--like-split needs --like"),
        (["--like", "{tiny}/none.h5"], 66, "no such file"),
        (["--conditions", "{tiny}/none.csv"], 66, "no such file"),
        (["--vae", "{tmp}/other.safetensors"], 65, "give the VAE that made its latents"),
        (["--vae", "{tiny}/model.safetensors"], 65, "expected 'vae'"),
        (["--sampler", "dpm"], 78, "sampler"),
        (["--steps", "0"], 78, "steps"),
        (["--times", "1000,500"], 2, "leave out --steps"),
        (["--times", "log"], 78, "times"),
        (["--eta", "0.5", "--sampler", "euler"], 78, "eta belongs to"),
        (["--guidance", "-1"], 78, "guidance"),
        (["-n", "0"], 2, "'--count'"),
        (["--shard", "2/2"], 2, "--shard 2/2"),
        (["-o", "{tiny}/images.h5"], 73, "exists already"),
        (["--device", "cuda:99"], 69, "CUDA devices found"),
    ],
)
def test_misuse(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: list[str], status: int, reason: str
) -> None:
    if "other" in " ".join(changes):
        from medgen.artifacts.model_file import open_model, save_model

        vae = open_model(tiny / "vae.safetensors")
        weights = {name: tensor + 1 for name, tensor in vae.weights().items()}
        save_model(
            tmp_path / "other.safetensors",
            kind="vae",
            config=vae.config,
            weights=weights,
            facts=vae.facts,
            provenance=vae.provenance,
        )
    changes = [change.format(tiny=tiny, tmp=tmp_path) for change in changes]
    assert run(arguments(tiny, tmp_path / "s.h5", *changes)) == status
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("medgen generate: ")
    assert reason in last
    assert not (tmp_path / "s.h5").exists()


def test_a_missing_vae_is_asked_for(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", str(tiny / "model.safetensors"), "-o", str(tmp_path / "s.h5")]) == 2
    assert "--vae" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_nothing(tiny: Path, tmp_path: Path, number: signal.Signals, status: int) -> None:
    command = [sys.executable, "-m", "medgen.cli.app", *arguments(tiny, tmp_path / "s.h5", "-n", "100000")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(timeout=60) == status
    assert list(tmp_path.iterdir()) == []


def test_times_may_be_a_spacing_or_fractions_and_are_remembered(tiny: Path, tmp_path: Path) -> None:
    made = {}
    asked: dict[str, object] = {"log-snr": "log-snr", "trailing": "trailing", "999,400.5,20.25": [999.0, 400.5, 20.25]}
    for number, times in enumerate(asked):
        output = tmp_path / f"{number}.h5"
        base = ["generate", str(tiny / "model.safetensors"), "--vae", str(tiny / "vae.safetensors"), "-o", str(output)]
        more = ["--steps", "3"] if isinstance(asked[times], str) else []
        assert run([*base, "--sampler", "unipc", "--times", times, *more]) == 0
        with open_set(output) as stored:
            config = stored.provenance.steps[-1].config
            assert (config["sampler"], config["times"]) == ("unipc", asked[times])
            made[times] = next(iter(stored))["image"].astype(int)
    assert len({image.tobytes() for image in made.values()}) == 3


@pytest.mark.parametrize(
    ("times", "status", "reason"),
    [
        ("1000,500", 78, "time 1000 lies outside [0, 999]"),
        ("10,500", 78, "times must fall"),
        ("500,x", 2, "expected log-snr|karras|angle|trailing|T,T,..."),
    ],
)
def test_impossible_times_are_named(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], times: str, status: int, reason: str
) -> None:
    base = ["generate", str(tiny / "model.safetensors"), "--vae", str(tiny / "vae.safetensors")]
    assert run([*base, "-o", str(tmp_path / "s.h5"), "--times", times]) == status
    assert reason in capfd.readouterr().err
    assert not (tmp_path / "s.h5").exists()
