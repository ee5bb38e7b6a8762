"""The documents say what the code does."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from medgen.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
LOCKED = re.search(r"^typer==(\S+)$", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
"""The typer that prints the help in the documents; others put a few words differently."""


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs", ROOT / "tests" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_in_the_readme_is_current(docs: ModuleType) -> None:
    assert docs.readme() == (ROOT / "README.md").read_text(encoding="utf-8"), "run `make docs`"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_current_and_the_shell_reads_them(docs: ModuleType, shell: str) -> None:
    path = ROOT / "completions" / f"medgen.{shell}"
    assert docs.completion(shell) == path.read_text(encoding="utf-8"), "run `make docs`"
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(path)], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_man_pages_are_current_and_man_reads_them(docs: ModuleType, name: str) -> None:
    path = ROOT / "man" / f"medgen-{name}.1"
    assert LOCKED is not None
    if importlib.metadata.version("typer") == LOCKED[1]:
        assert docs.man_page(name) == path.read_text(encoding="utf-8"), "run `make docs`"
    if shutil.which("groff"):
        command = ["groff", "-man", "-Tascii", "-ww", str(path)]
        read = subprocess.run(command, capture_output=True, check=True, text=True)
        assert read.stderr == ""
        assert "EXIT STATUS" in re.sub(".\b", "", read.stdout)


def test_every_option_that_the_documents_use_exists(docs: ModuleType) -> None:
    """Each `medgen COMMAND --option` in the documents and examples is one of that command's."""
    helps = {name: docs.run(name, "--help") for name in COMMANDS}
    checked = 0
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "examples").rglob("*"))]:
        if path.suffix not in (".md", ".sh", ".yaml", "") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8").replace("\\\n", " ").replace("$(RUN)", "medgen")
        for name, rest in re.findall(r"\bmedgen ([a-z-]+)([^\n|#`&;]*)", text):
            if name not in COMMANDS:
                continue
            for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest):
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", helps[name]), f"{path}: {name} {option}"
                checked += 1
    assert checked > 20
