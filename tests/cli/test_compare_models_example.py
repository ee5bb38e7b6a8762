"""The example that compares two models runs, on networks that have learned nothing."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare-models"


def test_two_ways_to_sample_end_in_one_report(tiny: Path, tmp_path: Path) -> None:
    settings = {
        "MEDGEN": f"{shlex.quote(sys.executable)} -m medgen.cli.app",
        "OUT": tmp_path,
        "MODEL_A": tiny / "model.safetensors",
        "MODEL_B": tiny / "model.safetensors",
        "VAE_A": tiny / "vae.safetensors",
        "VAE_B": tiny / "vae.safetensors",
        "REFERENCE": tiny / "images.h5",
        "SPLIT": "val",
        "SAMPLES": 5,
    }
    words = ["make", "-C", str(EXAMPLE), *(f"{name}={value}" for name, value in settings.items())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "report.json").read_bytes())
    assert [one["name"] for one in numbers["sets"]] == ["guidance-1", "guidance-3"]
    (pair,) = numbers["comparison"]["pairs"]
    assert (pair["same_seed"], pair["same_conditions"], pair["shared_cases"]) == (True, True, 5)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>Guidance-1 and guidance-3</h1>" in page
    assert str(tmp_path) not in page
