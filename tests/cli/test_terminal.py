"""Nothing that a file or its name holds reaches a terminal as a command to it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medgen.artifacts.schema import Case
from medgen.artifacts.sets import create_set, open_set
from medgen.cli import app
from medgen.cli.app import run
from medgen.cli.console import Console
from medgen.visible import visible, visible_lines

Medgen = Callable[..., subprocess.CompletedProcess[bytes]]
EVIL = "a\x1b]0;owned\x07\x1b[2J\r\u202egnp"
"""Sets a terminal's title, clears it, goes back to the line's beginning, and turns what follows around."""
COMMANDS_TO_A_TERMINAL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def check(text: str) -> None:
    assert not COMMANDS_TO_A_TERMINAL.search(text), text


@given(st.text())
def test_what_is_visible_has_no_control_characters_and_the_rest_is_as_it_was(text: str) -> None:
    shown = visible(text)
    check(shown)
    assert "\n" not in shown
    shown.encode()  # no half of a character
    assert visible(shown) == shown
    assert visible_lines(text).count("\n") == text.count("\n")


@pytest.mark.parametrize("text", ["Müller", "患者", "🩻", "a b", "C:\\x", "\u0645\u06cc\u200c\u062e"])
def test_letters_of_all_scripts_stay(text: str) -> None:
    assert visible(text) == text


def test_a_name_cannot_make_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("export")
    for tell in (console.say, console.warn, console.error):
        tell("x\nmedgen export: all is well")
    assert all(line.startswith("medgen export: ") for line in capsys.readouterr().err.splitlines())


def test_progress_notes_and_tables_are_shielded_on_terminals_and_elsewhere() -> None:
    """In a pseudo-terminal, where there are bars; what rich itself sends is known, and taken away."""
    code = (
        "from medgen.cli.console import Console\n"
        f"evil = {EVIL!r}\n"
        "console = Console('evaluate')\n"
        "with console.progress(2, 'slices of ' + evil) as advance:\n"
        "    advance(1, evil + '[bold]')\n"
        "    import time; time.sleep(0.2)\n"
        "console.table(evil, ['', evil + '[/red]'], [['[bold]x', evil]])\n"
    )
    for terminal in (True, False):
        reader, writer = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "300"}
        with subprocess.Popen(
            [sys.executable, "-c", code], stderr=writer if terminal else subprocess.PIPE, env=environment
        ) as process:
            os.close(writer)
            told = b""
            try:
                while block := os.read(reader, 4096) if terminal else process.stderr.read():  # type: ignore[union-attr]
                    told += block
            except OSError:  # the other end is closed
                pass
            assert process.wait() == 0
        os.close(reader)
        assert b"\x1b]0;owned" not in told
        assert "\u202e".encode() not in told
        assert b"[2J" not in told.replace(rb"\x1b[2J", b"")
        assert b"[bold]" in told  # as it was written, and not as bold letters
        assert rb"\x1b]0;owned\x07" in told


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_errors_about_such_names_are_shielded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], debug: list[str]
) -> None:
    folder = tmp_path / EVIL
    folder.mkdir()
    (folder / f"{EVIL}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    missing, out = str(tmp_path / f"{EVIL}.h5"), str(tmp_path / f"out{EVIL}.h5")
    for call in (
        ["info", missing],
        ["merge", missing],
        ["preprocess", str(folder), "-o", out],
        ["preprocess", str(folder), "--keep-going", "-o", out],
        [EVIL],
        ["merge", f"--{EVIL}"],
        ["evaluate", str(folder), "--metrics", EVIL],
        ["generate", missing, "--set", f"{EVIL}=1"],
    ):
        assert run([*call, *debug]) not in (0, 70), call
        told = capsys.readouterr()
        check(told.err)
        check(told.out)
        assert "\\x1b" in told.err, call


def test_info_and_captions_show_what_a_set_holds_without_obeying_it(
    tmp_path: Path, make_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with open_set(make_set(count=1, fields=0)) as reader:
        header, (case,) = reader.header, list(reader)
    sheets = []
    for name, text in (("evil", EVIL), ("shielded", visible(" ".join(EVIL.split())))):
        with create_set(tmp_path / name, header) as writer:
            writer.write(Case("c", case.arrays, text=(text,) * len(case), modality=(text,) * len(case)))
        assert run(["info", str(tmp_path / name)]) == 0
        told = capsys.readouterr().out
        check(told)
        assert "\\x1b]0;owned" in told
        assert run(["preview", str(tmp_path / name), "-o", str(tmp_path / f"{name}.png")]) == 0
        sheets.append(np.asarray(Image.open(tmp_path / f"{name}.png")))
    np.testing.assert_array_equal(*sheets)


def test_what_libraries_warn_of_is_shielded(medgen: Medgen, write_slice: Callable[..., Path], tmp_path: Path) -> None:
    """The mask is read by the main process, where warnings are shown."""
    image = write_slice(tmp_path / "a.dcm", np.zeros((8, 8), np.int16))
    mask = write_slice(tmp_path / "masks/a.dcm", np.ones((8, 8), np.int16), SOPInstanceUID="1.2.840.99999.1")
    mask.write_bytes(mask.read_bytes().replace(b"1.2.840.99999.1", b"1.2.\x1b[2J.999999"))
    done = medgen("preprocess", image, "--masks", tmp_path / "masks", "--workers", 1, "-o", tmp_path / "out.h5")
    check(done.stderr.decode())
    assert rb"\x1b[2J" in done.stderr


def test_a_terminal_that_is_closed_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a connection breaks, and the shell leaves the command running."""
    leader, follower = pty.openpty()
    stream = os.fdopen(follower, "w")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        console = Console("train-vae")
        with console.progress(3, "steps") as advance:
            advance()
            os.close(leader)
            advance(1, "loss 0.1")
            console.say("step 2")
        console.table("figures", ["name"], [["loss"]])
        app._show_warning("of a library")
    with contextlib.suppress(OSError):
        stream.close()


@pytest.mark.parametrize(("name", "status"), [("set", 0), ("none", 66)])
def test_messages_that_a_full_disk_loses_do_not_change_the_exit_status(
    make_set: Callable[..., Path], name: str, status: int
) -> None:
    path = make_set()
    path = path if name == "set" else path.with_name("none.h5")
    command = [sys.executable, "-m", "medgen.cli.app", "check", str(path)]
    with Path("/dev/full").open("rb+", buffering=0) as full:
        assert subprocess.run(command, stderr=full, stdout=subprocess.DEVNULL, check=False).returncode == status
