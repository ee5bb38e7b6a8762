"""`train-diffusion`: each learner takes its own options, and no network is trained blind."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medgen.artifacts.model_file import open_model
from medgen.cli.app import run


@pytest.mark.parametrize(
    ("preset", "learner", "own"),
    [
        ("lidc-nodule-tiny", "denoiser", {"condition_dropout"}),
        ("ct-interpolation-tiny", "interpolator", {"volumes"}),
        ("dental-normalizer-tiny", "normalizer", {"normalizer"}),
    ],
)
def test_a_printed_configuration_reads_back(
    preset: str, learner: str, own: set[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["train-diffusion", "--print-config", "-o", str(tmp_path / "m.safetensors")]
    assert run([*command, "--preset", preset]) == 0
    printed = capfd.readouterr().out
    table = tomllib.loads(printed)["train-diffusion"]
    assert table["learner"] == learner
    assert {"condition_dropout", "volumes", "normalizer"} & table.keys() == own
    file = tmp_path / "c.toml"
    file.write_text(printed)
    assert run([*command, "--config", str(file)]) == 0
    assert capfd.readouterr().out == printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "volumes.depth=8"], "'volumes' is an option of learner interpolator, and this is learner denoiser"),
        (["--preset", "ct-interpolation", "--set", "balance.field=x"], "'balance' is an option of learner denoiser or"),
        (["--set", "trunk=all"], "'trunk' is an option of learner siamese, and this is"),
        (["--preset", "ct-interpolation", "--learner", "denoiser"], "network.dims = 3: the denoiser works on slices"),
        (
            ["--preset", "siamese", "--learner", "denoiser", "--set", "hint=sum"],
            "'hint' is an option of learner siamese",
        ),
        (["--set", "objective=epsilon"], "Invalid enum value 'epsilon' - at objective; choose from eps, x0, v, flow"),
        (["--set", "network.attention=['none','none','some']"], "- at network.attention[2]; choose from none, "),
        (["--learner", "denoizer"], "--learner denoizer; did you mean 'denoiser'"),
        (["--learner", "normalizer", "--set", "condition_dropuot=0.1"], "unknown key 'condition_dropuot'"),
    ],
)
def test_options_of_another_learner_are_refused(
    arguments: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["train-diffusion", "no.h5", "-o", str(tmp_path / "m.safetensors"), *arguments]) == 78
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network.context_width=64"], "network.context_width: the denoiser gives its network no text, so that"),
        (["network.side.classes=1"], "network.side: the denoiser gives its network no mask"),
        (["network.vector_size=9"], "network.vector_size = 9: the set's vectors have 2 fields; leave it out"),
        (["learner=normalizer", "network.context_width=64"], "network.context_width: the normalizer gives"),
    ],
)
def test_a_part_of_the_network_that_would_see_nothing_is_refused(
    settings: list[str], message: str, make_set: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = [word for setting in settings for word in ("--set", setting)]
    source = make_set(count=2, size=16)
    assert run(["train-diffusion", str(source), "-o", str(tmp_path / "m.safetensors"), *asked]) == 78
    assert message in capfd.readouterr().err


def test_a_preset_of_another_learner_makes_its_trunk(
    make_set: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = str(make_set(fields=0, count=2, depth=1, size=32))
    shared = ["train-diffusion", source, "--preset", "siamese-tiny", "--steps", "1", "--batch-size", "1"]
    trunk, model = str(tmp_path / "trunk.safetensors"), str(tmp_path / "model.safetensors")
    assert run([*shared, "--learner", "denoiser", "-o", trunk]) == 0, capfd.readouterr().err
    assert run([*shared, "--init", trunk, "--set", "trunk=decoder", "-o", model]) == 0, capfd.readouterr().err
    assert open_model(Path(trunk)).config.get("side") is None
    kept, trained = open_model(Path(trunk)).weights(), open_model(Path(model)).weights()
    assert all(torch.equal(trained[name], weight) for name, weight in kept.items() if name.startswith("down."))
