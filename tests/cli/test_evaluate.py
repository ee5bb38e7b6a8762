from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from medgen.cli.app import run

Medgen = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of chest phantoms with known nodules, 64 x 64."""
    folder = tmp_path_factory.mktemp("phantoms")
    for name, count, seed in (("a", 12, 1), ("b", 16, 2)):
        made = ["phantom", "chest-ct", "-n", str(count), "--seed", str(seed), "-o", str(folder / name)]
        sizes = ["--set", "size=96", "--set", "slices=4", "--set", "diameter=[30.0,56.0]", "--set", "nodules=[1,1]"]
        sizes += ["--set", "healthy_fraction=0.4"]
        assert run([*made, *sizes, "--workers", "1"]) == 0
        sources = sorted(map(str, (folder / name).rglob("*.zip")))
        labels = ["--labels", str(folder / name / "labels.csv"), "--size", "64", "--window", "lung", "--workers", "1"]
        assert run(["preprocess", *sources, *labels, "-o", str(folder / f"{name}.h5")]) == 0
    return folder


def test_all_metrics_of_phantoms_with_known_truth(medgen: Medgen, phantoms: Path, tiny: Path) -> None:
    call = ("evaluate", phantoms / "a.h5", "--reference", phantoms / "b.h5")
    first = medgen(*call)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert first.stdout == medgen(*call).stdout  # the same command, the same bytes
    assert result["features"]["name"] == "builtin"
    reference, (result,) = result["reference"], result["sets"]
    assert result["name"] == "the set"
    assert result["cases"] == 12
    assert result["digest"] != reference["digest"]
    assert "reconstruction" not in result
    assert result["fidelity"]["extractor"]["name"] == "builtin"
    distance = result["fidelity"]["frechet_distance"]
    assert distance["at_floor_size"]["mean"] < 3 * distance["floor"]["mean"]
    rule = result["conditioning"]
    for row in ("samples", "ceiling"):
        assert rule[row]["hit_rate"]["value"] > 0.6
        assert rule[row]["hit_rate"]["low"] > rule["chance"]["hit_rate"]["value"] + 0.1
        assert rule[row]["correlation"]["x"]["pearson"] > 0.3
    assert rule["samples"]["size_error_percent"] < 4
    healthy = rule["samples"]["healthy"]
    assert rule["samples"]["confusion"]["false_positive"] < 0.4 * healthy
    assert b"known nodules" in first.stderr
    assert b"floor: real" in first.stderr


def test_reconstruction_by_a_vae_and_by_pairs(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images, output = str(tiny / "images.h5"), tmp_path / "e.json"
    arguments = ["evaluate", images, "--metrics", "reconstruction"]
    assert run([*arguments, "--vae", str(tiny / "vae.safetensors"), "-o", str(output)]) == 0
    result = json.loads(output.read_text(encoding="utf-8"))["sets"][0]["reconstruction"]
    assert result["pairs"] == 10
    assert result["psnr"]["mean"] > 0
    assert result["vae_digest"]
    assert capfd.readouterr().out == ""
    assert run([*arguments, "--reference", images]) == 0
    captured = capfd.readouterr()
    paired = json.loads(captured.out)["sets"][0]["reconstruction"]
    assert paired["identical"] == 10
    assert paired["psnr"] is None
    assert paired["ssim"]["mean"] == pytest.approx(1)
    assert "SSIM" in captured.err


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        (["--metrics", "fidelity"], 2, "needs real images: give --reference SET"),
        (["--metrics", "reconstruction"], 2, "needs pairs: give --vae"),
        (["--metrics", "fidelty"], 2, "did you mean 'fidelity'"),
        (["--features", "inception"], 66, "neither 'builtin' nor a file"),
        (["--reference", "{tiny}/none.h5"], 66, "no such file"),
        (["--reference", "{tiny}/vae.safetensors"], 65, "vae.safetensors"),
        (["-o", "{tiny}/images.h5"], 2, "is an input too"),
    ],
)
def test_misuse(tiny: Path, capfd: pytest.CaptureFixture[str], changes: list[str], status: int, reason: str) -> None:
    changes = [change.format(tiny=tiny) for change in changes]
    assert run(["evaluate", str(tiny / "images.h5"), *changes]) == status
    captured = capfd.readouterr()
    assert captured.out == ""
    assert reason in captured.err.splitlines()[-1]


def test_conditioning_needs_vectors(make_set: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    path = str(make_set())
    assert run(["evaluate", path, "--metrics", "conditioning"]) == 2
    assert "vectors name has_nodule, x, y, size" in capfd.readouterr().err
    assert run(["evaluate", path]) == 2
    assert "nothing to measure" in capfd.readouterr().err
