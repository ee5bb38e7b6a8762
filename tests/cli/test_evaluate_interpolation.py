"""`medgen evaluate --thick`: from DICOM of both thicknesses to the table, with a set whose quality is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medgen.cli.app import run


def test_linear_interpolation_is_found_to_be_linear(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Thick phantoms, resampled by preprocess, against thin ones of the same seed that were made apart."""
    common = ["--seed", "4", "--size", "48", "--set", "pitch=1.0", "--set", "scout_fraction=0.0", "--workers", "1"]
    for name, slices, thickness in (("thin", 20, 1), ("thick", 4, 5)):
        made = ["phantom", "chest-ct", "-n", "3", "-o", str(tmp_path / name), *common]
        assert run([*made, "--slices", str(slices), "--thickness", str(thickness)]) == 0
    for name, source, more in (("thin", "thin", []), ("thick", "thick", []), ("linear", "thick", ["--thickness", "1"])):
        call = ["preprocess", str(tmp_path / source / "dicom"), "-o", str(tmp_path / f"{name}.h5"), "--workers", "1"]
        assert run([*call, "--window", "soft-tissue", *more]) == 0
    sets = {name: str(tmp_path / f"{name}.h5") for name in ("thin", "thick", "linear")}
    capfd.readouterr()
    assert run(["evaluate", sets["linear"], "--thick", sets["thick"], "--reference", sets["thin"]]) == 0
    captured = capfd.readouterr()
    (one,) = json.loads(captured.out)["sets"]
    assert "fidelity" not in one
    told = one["interpolation"]
    assert (told["cases"], told["patients"], told["slices"], told["resampled"]) == (3, 3, 60, 0)
    assert told["between"]["slices"] == 3 * 12
    for score, tolerance in (("psnr", 0.1), ("mae", 0.3), ("ssim", 0.005)):
        ours, linear = (told["between"][name][score]["value"] for name in ("set", "linear"))
        assert ours == pytest.approx(linear, abs=tolerance)  # whole HU are stored
    assert told["between"]["set_minus_cubic"]["psnr"]["high"] < 0
    assert told["measurement"]["truth"]["mae"] < 0.6
    assert "slices between thick slices, 3 patients" in captured.err
    assert "this set - cubic" in captured.err


def test_without_a_truth_it_says_what_to_give(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = str(tiny / "images.h5")
    assert run(["evaluate", images, "--thick", images, "--metrics", "interpolation"]) == 2
    assert "interpolation needs the thin truth: give --reference" in capfd.readouterr().err
    assert run(["evaluate", images, "--thick", images, "--reference", images]) == 65
    assert "lack the thick input" in capfd.readouterr().err
