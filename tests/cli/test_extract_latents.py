from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.cli.app import run

Medgen = Callable[..., subprocess.CompletedProcess[bytes]]


def test_a_latent_set_has_the_scale_the_vae_and_everything_else(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "z.h5"
    assert (
        run(["extract-latents", str(tiny / "images.h5"), "--vae", str(tiny / "vae.safetensors"), "-o", str(output)])
        == 0
    )
    with open_set(output, random_access=True) as latents, open_set(tiny / "images.h5", random_access=True) as images:
        assert latents.header.kind == "latent"
        assert latents.header.latent_scale == 0.5
        assert latents.header.latent_shift == 0.25
        assert latents.header.vae_digest
        assert latents.header.vector_fields == images.header.vector_fields
        assert latents.cases == images.cases
        assert latents.arrays()["latent"][0] == (4, 8, 8)
        assert [step.command for step in latents.provenance.steps] == ["preprocess", "train-vae", "extract-latents"]
        np.testing.assert_array_equal(latents.column("vector"), images.column("vector"))


def test_pipe_and_file_give_the_same_bytes(medgen: Medgen, tiny: Path, tmp_path: Path) -> None:
    vae = tiny / "vae.safetensors"
    model = ("--vae", vae, "--precision", "float32")
    assert medgen("extract-latents", tiny / "images.h5", *model, "-o", tmp_path / "file.h5").returncode == 0
    # merge of one set turns the file into a stream
    stream = medgen("merge", tiny / "images.h5").stdout
    as_file = tmp_path / "images.stream"
    as_file.write_bytes(stream)
    piped = medgen("extract-latents", *model, "-o", tmp_path / "pipe.h5", input=stream)
    assert piped.returncode == 0, piped.stderr
    again = medgen("extract-latents", as_file, *model, "-o", tmp_path / "again.h5")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "pipe.h5").read_bytes() == (tmp_path / "again.h5").read_bytes()
    with open_set(tmp_path / "pipe.h5") as first, open_set(tmp_path / "file.h5") as second:
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a["latent"], b["latent"])
    cut = medgen("extract-latents", "--vae", vae, "-o", tmp_path / "cut.h5", input=stream[:-100])
    assert cut.returncode == 65
    assert not (tmp_path / "cut.h5").exists()


@pytest.mark.parametrize("parts", [3, 6])  # 6: more shards than cases, so that some are empty
def test_shards_join_into_the_unsharded_result(tiny: Path, tmp_path: Path, parts: int) -> None:
    vae, source = str(tiny / "vae.safetensors"), str(tiny / "images.h5")
    assert run(["extract-latents", source, "--vae", vae, "-o", str(tmp_path / "whole.h5")]) == 0
    shards = [str(tmp_path / f"{part}.h5") for part in range(parts)]
    for part, shard in enumerate(shards):
        assert run(["extract-latents", source, "--vae", vae, "-o", shard, "--shard", f"{part}/{parts}"]) == 0
    assert run(["merge", *shards, "-o", str(tmp_path / "joined.h5")]) == 0
    assert (tmp_path / "joined.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["extract-latents", "--vae", "{vae}"],
        ["normalize", "--vae", "{vae}", "--method", "vae"],
        ["interpolate", "--spacing", "2"],
    ],
)
def test_shards_of_one_split_join_into_the_unsharded_result(tiny: Path, tmp_path: Path, words: list[str]) -> None:
    rng, source = np.random.default_rng(0), tmp_path / "images.h5"
    with create_set(source, SetHeader("image", derive("make", {}), Intensity())) as writer:
        for number, split in enumerate(("test", "val", "test", "test", "val", "test")):
            image = rng.integers(-900, 300, (2, 1, 32, 32)).astype(np.int16)
            writer.write(Case(f"case-{number}", {"image": image}, split, (4.0, 1.0, 1.0)))
    command = [word.format(vae=tiny / "vae.safetensors") for word in words]
    for name, more in (("whole", []), ("0", ["--shard", "0/2"]), ("1", ["--shard", "1/2"])):
        assert run([*command, str(source), "--split", "test", "-o", str(tmp_path / name), *more]) == 0
    assert run(["merge", str(tmp_path / "0"), str(tmp_path / "1"), "-o", str(tmp_path / "joined")]) == 0
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "whole").read_bytes()


def test_only_one_split(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "z.h5"
    arguments = ["extract-latents", str(tiny / "images.h5"), "--vae", str(tiny / "vae.safetensors"), "-o", str(output)]
    assert run([*arguments, "--split", "val"]) == 0
    with open_set(output) as reader:
        assert [case.id for case in reader] == ["case-1", "case-3"]


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        (["--vae", "{tiny}/model.safetensors"], 65, "expected 'vae'"),
        (["--vae", "{tiny}/none.safetensors"], 66, "no such file"),
        (["--shard", "3/2"], 2, "--shard 3/2"),
        (["--split", "none"], 65, "no case was encoded"),
        (["--batch-size", "0"], 78, "--batch-size"),
        (["--device", "gpu"], 2, "expected auto, cpu, cuda"),
        (["-o", "{tiny}/images.h5"], 2, "is an input too"),
        (["-o", "/nowhere/z.h5"], 73, "does not exist"),
    ],
)
def test_misuse(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: list[str], status: int, reason: str
) -> None:
    base = ["extract-latents", str(tiny / "images.h5"), "--vae", f"{tiny}/vae.safetensors", "-o", f"{tmp_path}/z.h5"]
    assert run([*base, *(change.format(tiny=tiny) for change in changes)]) == status
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("medgen extract-latents: ")
    assert reason in last
    assert not (tmp_path / "z.h5").exists()


def test_nan_is_named_and_left_out_only_when_asked(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "nan.h5"
    with open_set(tiny / "images.h5") as reader:
        header = SetHeader("image", reader.provenance, intensity=Intensity())
        with create_set(source, header, inputs=[reader]) as writer:
            for number, case in enumerate(reader):
                image = case["image"].astype(np.float32)
                if number == 2:
                    image[1, 0, 0, 0] = np.nan
                writer.write(Case(case.id, {"image": image}))
    arguments = ["extract-latents", str(source), "--vae", str(tiny / "vae.safetensors"), "-o", str(tmp_path / "z.h5")]
    assert run(arguments) == 65
    assert "case case-2, slice 1" in capfd.readouterr().err
    assert not (tmp_path / "z.h5").exists()
    assert run([*arguments, "--keep-going"]) == 1
    error = capfd.readouterr().err
    assert "case case-2, slice 1" in error
    assert "1 cases were left out" in error.splitlines()[-1]
    with open_set(tmp_path / "z.h5") as reader:
        assert [case.id for case in reader] == ["case-0", "case-1", "case-3"]


def test_sigterm_leaves_nothing(tiny: Path, tmp_path: Path, medgen: Medgen) -> None:
    stream = medgen("merge", tiny / "images.h5").stdout
    command = [sys.executable, "-m", "medgen.cli.app", "extract-latents", "--vae", str(tiny / "vae.safetensors")]
    with subprocess.Popen(
        [*command, "-o", str(tmp_path / "z.h5")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(stream[: len(stream) // 2])
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".z.h5*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.glob(".z.h5*"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert list(tmp_path.iterdir()) == []
