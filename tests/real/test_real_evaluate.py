"""Folders of real images are compared as they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from medgen.cli.app import run

DATA = Path(os.environ.get("MEDGEN_REAL_DATA", ""))
pytestmark = pytest.mark.skipif(not os.environ.get("MEDGEN_REAL_DATA"), reason="MEDGEN_REAL_DATA is not set")


def test_brain_mri_with_and_without_tumour(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sick, healthy = (str(DATA / "brain_mri" / name) for name in ("yes", "no"))
    call = ["evaluate", sick, "--reference", healthy, "--metrics", "fidelity", "--set", "fidelity.subsets=5"]
    assert run(call) == 65
    assert "--size" in capfd.readouterr().err
    outputs = ["-o", str(tmp_path / "e.json"), "--report", str(tmp_path / "e.html")]
    assert run([*call, "--size", "64", *outputs]) == 0
    numbers = json.loads((tmp_path / "e.json").read_bytes())
    assert numbers["sets"][0]["slices"] == numbers["reference"]["slices"] == 50
    page = (tmp_path / "e.html").read_text(encoding="utf-8")
    assert "64 x 64" in page
    assert str(DATA) not in page
    assert "<h1>The set</h1>" in page  # not after its folder: folders are often named after patients
