"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medgen.cli.app import run


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command line in this process, which need not load torch again: its exit status, and what it says."""

    def command(*words: object) -> tuple[int, str]:
        status = run([str(word) for word in words])
        return status, capsys.readouterr().err

    return command
