"""The example of the loop with experts: its steps are files, and its expert knows what she looks for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).parents[2] / "examples" / "feedback"


def planned(out: Path) -> str:
    """The commands that make would run."""
    command = ["make", "--no-print-directory", "-n", f"OUT={out}", "MEDGEN=called:medgen"]
    return subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, check=True).stdout


def test_only_what_follows_from_a_deleted_file_is_made_again(tmp_path: Path) -> None:
    names = ["ct/labels.csv", "images.h5", "model-0.safetensors"]
    for number in (1, 2, 3):
        names += [f"samples-{number}.h5", f"ratings-{number}.csv", f"selector-{number}.safetensors"]
        names += [f"pool-{number}.h5", f"selected-{number}.h5", f"model-{number}.safetensors", f"aligned-{number}.h5"]
    names += ["alone.h5", *(f"like-{number}.h5" for number in range(4)), "truth.json", "frechet.json"]
    for age, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        later = 2_000_000_000 + age  # than the files of the example
        os.utime(path, (later, later))
    assert "called:medgen" not in planned(tmp_path)
    (tmp_path / "selector-2.safetensors").unlink()
    again = planned(tmp_path)
    made = "selector-2 selected-2 model-2 aligned-2 samples-3 model-3 like-2 truth frechet"
    for name in made.split():
        assert f"-o {tmp_path}/{name}." in again
    for name in ("samples-2", "pool-2", "model-1", "selector-1", "images", "ratings-2", "like-1"):
        assert f"-o {tmp_path}/{name}." not in again


def test_the_expert_sees_a_nodule_only_where_it_was_asked_for() -> None:
    spec = importlib.util.spec_from_file_location("expert", EXAMPLE / "expert.py")
    assert spec is not None
    assert spec.loader is not None
    expert = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(expert)
    rows, columns = (np.mgrid[:32, :32] + 0.5) / 32
    image = 0.1 + 0.7 * (np.hypot(columns - 0.25, rows - 0.5) <= 0.08)
    asked = {"x": 0.25, "y": 0.5, "size": 0.16}
    assert expert.quality(image, asked) > 0.9
    assert expert.quality(image, asked | {"x": 0.75}) < 1e-9
