"""The command as the shell sees it: help, exit statuses, streams, signals."""

from __future__ import annotations

import fcntl
import importlib
import os
import pty
import re
import resource
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from medgen.cli.app import COMMANDS, app
from medgen.cli.command import describe

Run = Callable[..., subprocess.CompletedProcess[bytes]]
HEAVY = ("torch", "numpy", "h5py", "pydicom", "skimage", "scipy")


def last_line(result: subprocess.CompletedProcess[bytes]) -> str:
    return result.stderr.decode().strip().splitlines()[-1]


def test_help_names_every_command_and_goes_to_stdout(medgen: Run) -> None:
    result = medgen("--help")
    assert result.returncode == 0
    assert result.stderr == b""
    for name in COMMANDS:
        assert f"  {name} ".encode() in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_own_help_begins_with(name: str) -> None:
    module = importlib.import_module(f"medgen.cli.{name.replace('-', '_')}")
    assert module.command.__doc__.splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_it_would_take(name: str) -> None:
    group = typer.main.get_command(app)
    examples = group.get_command(None, name).examples
    assert 1 <= len(examples) <= 3
    for line in examples:
        assert f"medgen {name} " in f"{line} "
        for part in line.split(" | "):
            medgen, called, *words = shlex.split(part.partition(" > ")[0])
            assert medgen == "medgen"
            group.get_command(None, called).make_context(called, words)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_takes_a_value_shows_its_default(name: str) -> None:
    command = typer.main.get_command(app).get_command(None, name)
    records = command.records(command.make_context(name, [], resilient_parsing=True))
    for heading, options in records.items():
        for switches, text in options if heading not in ("Arguments", "Configuration", "General") else []:
            takes_value = re.search(r"--[\w-]+ (?!/)", switches)
            assert "[default: " in text or "[required" in text or not takes_value, (heading, switches)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_two_options_have_one_flag(name: str) -> None:
    command = typer.main.get_command(app).get_command(None, name)
    flags = [flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
    assert len(flags) == len(set(flags))


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from medgen.cli.app import COMMANDS, run; statuses = [run(['--help']), run(['presets'])];"
        "statuses += [run([name, '--help']) for name in COMMANDS];"
        f"sys.stderr.write(repr([name for name in {HEAVY!r} if name in sys.modules])); sys.exit(any(statuses))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stderr == b"[]"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("medgen extr", ["extract-latents"]),
        ("medgen phantom --nod", ["--nodules", "--nodule-diameter", "--nodule-texture"]),
        ("medgen generate m --sampler d", ["dpm-solver++", "ddim", "ddpm"]),
    ],
)
def test_completion_loads_nothing_heavy_and_knows_commands_and_options(words: str, expected: list[str]) -> None:
    code = (
        "import atexit, sys; from medgen.cli.app import run;"
        f"atexit.register(lambda: sys.stderr.write(repr([name for name in {HEAVY!r} if name in sys.modules])));"
        "sys.argv = ['medgen']; sys.exit(run([]))"
    )
    count = str(len(words.split()) - 1)
    environment = os.environ | {"_MEDGEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout.split() == expected
    assert result.stderr == "[]"


def test_help_is_quick() -> None:
    """Beside its own parser, on whatever processor: loading numpy or torch would cost many times as much."""

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    pairs = [(seconds("-m", "medgen.cli.app", "--help"), seconds("-c", "import typer, msgspec")) for _ in range(5)]
    assert min(help_ for help_, _ in pairs) < 2.5 * min(parser for _, parser in pairs)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["prepoces"], 2, "did you mean 'preprocess'"),
        (["info", "--bogus"], 2, "--bogus"),
        (["info", "/nonexistent/set.h5"], 66, "no such file"),
        (["presets", "lidc-nodul"], 78, "did you mean 'lidc-nodule"),
        (["merge"], 2, "SET"),
        (["preprocess", "/nonexistent/ct.zip", "-o", "/tmp/never.h5"], 66, "ct.zip"),
        (["train-vae", "/nonexistent.h5", "-o", "/tmp/never.safetensors", "--set", "loop.stepz=3"], 78, "'steps'"),
        (["generate", "/nonexistent.safetensors"], 66, "no such file"),
    ],
)
def test_errors_are_one_sentence_with_their_exit_status(
    medgen: Run, arguments: list[str], status: int, message: str
) -> None:
    result = medgen(*arguments)
    assert result.returncode == status, result.stderr
    assert result.stdout == b""
    assert message in last_line(result)
    assert b"Traceback" not in result.stderr
    assert all(line.startswith("medgen") for line in result.stderr.decode().splitlines())


def test_debug_shows_the_traceback_and_still_ends_with_the_cause(medgen: Run) -> None:
    result = medgen("info", "/nonexistent/set.h5", "--debug")
    assert result.returncode == 66
    assert b"Traceback" in result.stderr
    assert "no such file" in last_line(result)


def test_report_tells_success_and_failure(medgen: Run, make_set: Callable[..., Path], tmp_path: Path) -> None:
    import json

    medgen("check", make_set(), "--report", tmp_path / "good.json")
    medgen("check", tmp_path / "none.h5", "--report", tmp_path / "bad.json")
    good, bad = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("good", "bad"))
    assert (good["exit_status"], good["files"], good["failed"]) == (0, 1, 0)
    assert bad["exit_status"] == 66
    assert bad["error"] == "InputMissingError"
    assert "none.h5" not in json.dumps(bad)


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


class BackendCompilerFailed(RuntimeError):
    """As torch calls it."""


class InductorError(BackendCompilerFailed):
    """As torch calls it."""


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (OutOfMemoryError("CUDA"), 69, "device memory is full; lower --batch-size"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried"), 69, "memory is full; lower"),
        (MemoryError(), 69, "memory is full; lower"),
        (
            InductorError(f"CppCompileError\n{'warning' * 10_000}"),
            69,
            "compiling the network failed (CppCompileError);",
        ),
        (RuntimeError(f"one\ntwo{'three' * 1000}"), 70, "internal error, please report it (RuntimeError: one); run"),
    ],
)
def test_what_libraries_raise_is_told_in_one_short_sentence(error: Exception, status: int, told: str) -> None:
    found = describe(error)
    assert found[0] == status
    assert found[1].startswith(told)
    assert len(found[1]) < 200


def test_binary_is_never_written_to_a_terminal(make_set: Callable[..., Path]) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "medgen.cli.app", "merge", str(make_set())]
    result = subprocess.run(command, stdout=follower, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    os.close(follower)
    os.close(leader)
    assert result.returncode == 2
    assert b"-o FILE" in result.stderr


def test_a_terminal_as_input_is_a_usage_error_not_a_hang() -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "medgen.cli.app", "info"]
    result = subprocess.run(command, stdin=follower, capture_output=True, timeout=60, check=False)
    os.close(follower)
    os.close(leader)
    assert result.returncode == 2
    assert b"terminal" in result.stderr


def test_a_closed_pipe_is_silent_141(make_set: Callable[..., Path]) -> None:
    path = make_set(count=40, size=128)  # more than a pipe holds
    process = subprocess.Popen(
        [sys.executable, "-m", "medgen.cli.app", "merge", "-q", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(100)
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""


def wait_until_read(pipe: Any) -> None:
    """Until the other end has taken what was written: it has started then, however slow the machine."""
    unread = b"\1"
    while any(unread):
        time.sleep(0.02)
        unread = fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_no_output(tmp_path: Path, number: int, status: int) -> None:
    command = [sys.executable, "-m", "medgen.cli.app", "merge", "-", "-o", str(tmp_path / "out.h5")]
    process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"\x10\0\0\0")  # half a length: the reader waits for more
    process.stdin.flush()
    wait_until_read(process.stdin)
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    assert list(tmp_path.iterdir()) == []


LOSES_A_SIGNAL = """
import signal, sys, time
from medgen.cli import app

class Destroyed:
    def __del__(self):
        signal.raise_signal({number})

def work(**_):
    Destroyed()
    time.sleep(0.1)
    print("went on")

app.app = work
sys.exit(app.run([]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_a_destructor_is_not_lost(number: signal.Signals, status: int) -> None:
    script = LOSES_A_SIGNAL.format(number=int(number))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert (result.returncode, result.stdout) == (status, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_74_and_leaves_nothing(make_set: Callable[..., Path], unbuffered: str) -> None:
    path = make_set(count=40, size=128)
    result = subprocess.run(
        [sys.executable, "-m", "medgen.cli.app", "merge", str(path)],
        stdout=Path("/dev/full").open("wb"),  # noqa: SIM115
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    assert result.returncode == 74
    assert b"No space left" in result.stderr


def test_a_limited_file_size_is_74_and_leaves_nothing(make_set: Callable[..., Path], tmp_path: Path) -> None:
    path = make_set(count=40, size=128)
    out = tmp_path / "out"
    out.mkdir()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    command = [sys.executable, "-m", "medgen.cli.app", "merge", str(path), "-o", str(out / "set.h5")]
    result = subprocess.run(command, capture_output=True, preexec_fn=limit, check=False)
    assert result.returncode == 74, result.stderr
    assert list(out.iterdir()) == []
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("closed", "words", "status"),
    [
        (0, ["check", "-"], 65),
        (1, ["merge", "{set}"], 74),
        (2, ["merge", "{set}", "-o", "{out}"], 0),
    ],
)
def test_a_closed_standard_stream_gives_its_number_to_no_file(
    make_set: Callable[..., Path], tmp_path: Path, closed: int, words: list[str], status: int
) -> None:
    """Input is empty, output fails, and messages are lost; what is printed by libraries never gets into an output."""
    path, out = make_set(), tmp_path / "out.h5"
    command = [sys.executable, "-m", "medgen.cli.app", *(word.format(set=path, out=out) for word in words)]
    result = subprocess.run(command, capture_output=True, preexec_fn=lambda: os.close(closed), check=False)
    assert result.returncode == status, result.stderr
    assert b"Traceback" not in result.stderr
    assert b"internal" not in result.stderr
    assert out.exists() == (closed == 2)
