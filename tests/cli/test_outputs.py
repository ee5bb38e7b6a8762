"""What a command writes: --report, --log and the like keep to the rules of -o, and no two of them are one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medgen.cli.app import COMMANDS, app, run
from medgen.cli.outputs import WRITTEN

MakeSet = Callable[..., Path]
TRAINING = (
    "--steps", "1", "--batch-size", "2", "--set", "network.widths=[8,16]", "--set", "network.blocks=1", "--set",
    "network.latent_channels=2", "--set", 'loop.precision="float32"', "--set", "loop.validation_samples=2",
)  # fmt: skip


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().err.strip().splitlines()[-1]


def test_a_report_replaces_nothing_without_force(make_set: MakeSet, tmp_path: Path, told: Callable[[], str]) -> None:
    source, report = make_set(), tmp_path / "report.json"
    report.write_text("precious")
    check = ["check", str(source), "--report", str(report)]
    assert run(check) == 73
    assert "report.json: exists already; give --force" in told()
    assert report.read_text() == "precious"
    assert run([*check, "--force"]) == 0
    assert json.loads(report.read_text())["exit_status"] == 0
    assert run(check) == 73
    for command in COMMANDS:
        assert "--force" in [flag for parameter in parameters(command) for flag in parameter.opts], command


def test_the_report_of_a_run_that_failed_makes_way_for_the_next(
    make_set: MakeSet, tmp_path: Path, told: Callable[[], str]
) -> None:
    source, report = tmp_path / "set.h5", tmp_path / "report.json"
    check = ["check", str(source), "--report", str(report)]
    assert run(check) == 66
    assert run(["info", str(source), "--report", str(report)]) == 73, "that of another command stays"
    make_set()
    assert run(check) == 0
    assert json.loads(report.read_text())["exit_status"] == 0


def parameters(command: str) -> list[object]:
    import typer

    return list(typer.main.get_command(app).get_command(None, command).params)  # type: ignore[attr-defined]


ONE_FILE = [
    ["merge", "set.h5", "-o", "same", "--report", "same"],
    ["merge", "set.h5", "-o", "same", "--report", "./same"],
    ["merge", "set.h5", "-o", "same", "--report", "link"],
    ["train-vae", "set.h5", "-o", "same", "--log", "same"],
    ["train-vae", "set.h5", "-o", "same", "--tensorboard", "same"],
    ["train-vae", "set.h5", "-o", "out", "--log", "out.resume"],
    ["train-vae", "set.h5", "-o", "out", "--report", "out.resume"],
    ["train-diffusion", "set.h5", "-o", "out", "--log", "same", "--report", "same"],
    ["evaluate", "set.h5", "-o", "same", "--report", "same"],
    ["evaluate", "set.h5", "--pairs", "same.html", "--report", "same.html"],
    ["evaluate", "set.h5", "--pairs", "same", "-o", "same"],
    ["preview", "set.h5", "-o", "same", "--report", "same"],
    ["export", "set.h5", "--to", "png", "-o", "same", "--report", "same/report.json"],
]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("words", ONE_FILE)
def test_no_two_outputs_are_one_file(
    make_set: MakeSet,
    tmp_path: Path,
    words: list[str],
    force: bool,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], str],
) -> None:
    make_set()
    (tmp_path / "link").symlink_to("same")
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    assert run([*words, *(["--force"] if force else [])]) == 2
    assert "the same file" in (line := told()) or "lies in the folder" in line
    assert sorted(os.listdir()) == before


INPUTS = [
    ["check", "set.h5", "--report", "set.h5"],
    ["check", "other.h5", "set.h5", "--report", "hard"],
    ["merge", "other.h5", "set.h5", "-o", "out", "--report", "set.h5"],
    ["merge", "set.h5", "other.h5", "-o", "soft"],
    ["preview", "set.h5", "-o", "out", "--report", "set.h5"],
    ["train-vae", "set.h5", "-o", "out", "--log", "set.h5"],
    ["train-vae", "other.h5", "-o", "set.h5", "--init", "set.h5"],
    ["train-vae", "other.h5", "-o", "set.h5", "--set", "init=set.h5"],
    ["train-vae", "other.h5", "-o", "out", "--config", "options.toml", "--log", "options.toml"],
    ["preprocess", "other.h5", "--labels", "set.h5", "-o", "out", "--report", "set.h5"],
    ["evaluate", "other.h5", "--reference", "set.h5", "--pairs", "set.h5"],
    ["evaluate", "other.h5", "--training", "set.h5", "-o", "set.h5"],
    ["evaluate", "other.h5", "--lpips", "set.h5", "-o", "set.h5"],
    ["extract-latents", "other.h5", "--vae", "set.h5", "-o", "set.h5"],
    ["anomaly-map", "other.h5", "set.h5", "-o", "set.h5"],
]


@pytest.mark.parametrize("words", INPUTS)
def test_no_output_is_an_input_not_even_with_force(
    make_set: MakeSet, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, told: Callable[[], str]
) -> None:
    content = make_set().read_bytes()
    make_set("other.h5", seed=1)
    (tmp_path / "options.toml").write_text("[train-vae]\n")
    os.link(tmp_path / "set.h5", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("set.h5")
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    assert run([*words, "--force"]) == 2
    assert "write to another file" in told()
    assert sorted(os.listdir()) == before
    assert (tmp_path / "set.h5").read_bytes() == content


def test_standard_streams_that_are_files_count_too(make_set: MakeSet, tmp_path: Path) -> None:
    source, target = tmp_path / "set.stream", tmp_path / "out"
    with source.open("wb") as stdout:
        made = [sys.executable, "-m", "medgen.cli.app", "merge", str(make_set())]
        subprocess.run(made, stdin=subprocess.DEVNULL, stdout=stdout, check=True)
    before = source.read_bytes()
    command = [sys.executable, "-m", "medgen.cli.app", "merge", "-", "--force"]
    for words, status in (
        (["-o", str(source)], 2),
        (["--report", str(source)], 2),
        (["--report", str(target)], 2),
        (["--report", str(tmp_path / "report.json")], 0),
    ):
        with source.open("rb") as stdin, target.open("wb") as stdout:
            assert subprocess.run([*command, *words], stdin=stdin, stdout=stdout, check=False).returncode == status
    assert source.read_bytes() == before
    assert run(["check", str(target)]) == 0


def test_words_that_happen_to_name_an_output_are_no_inputs(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_set()
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run(["export", "set.h5", "--to", "png", "-o", "png", "--force"]) == 0


def test_other_outputs_need_a_file(make_set: MakeSet, told: Callable[[], str]) -> None:
    assert run(["check", str(make_set()), "--report", "-"]) == 2
    assert "--report -: name a file" in told()


def test_a_log_is_kept_unless_forced_and_a_file_is_no_folder(
    make_set: MakeSet, tmp_path: Path, told: Callable[[], str]
) -> None:
    source, mine = str(make_set()), tmp_path / "mine"
    mine.write_text("precious")
    train = ["train-vae", source, "-o", str(tmp_path / "vae.safetensors"), *TRAINING]
    assert run([*train, "--log", str(mine)]) == 73
    assert run([*train, "--tensorboard", str(mine)]) == 73
    assert "mine: is a file; name a folder" in told()
    assert mine.read_text() == "precious"
    assert run([*train, "--log", str(mine), "--force"]) == 0
    assert json.loads(mine.read_text().splitlines()[0]).keys() == {"run"}


def test_all_that_commands_write_is_known_here() -> None:
    written = {
        command: {parameter.name for parameter in parameters(command)} & set(WRITTEN)  # type: ignore[attr-defined]
        for command in COMMANDS
    }
    assert {command for command, names in written.items() if "output" not in names} == {
        *("info", "check", "presets"),
        "rate",  # adds to a file that it also reads
    }
    assert all("report" in names for names in written.values())
    assert written["train-vae"] == written["train-diffusion"] == {"output", "report", "log", "tensorboard"}
    assert written["rate"] == {"ratings", "report"}
    assert written["evaluate"] == {"output", "report", "pairs_png"}


def test_a_folder_that_was_removed_is_no_place_to_work_in(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[[], str]
) -> None:
    path = make_set().resolve()
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run(["check", str(path)]) == 66
    assert "the current folder was removed" in told()
