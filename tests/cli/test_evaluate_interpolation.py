"""`medgen evaluate --thick`: from DICOM of both thicknesses to the table, with a set whose quality is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def test_thick_nifti_and_thin_dicom_of_one_patient_meet(
    tmp_path: Path, write_slice: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """NIfTI has neither patient nor frame of reference: it pairs by what its file is called, or as a CSV says."""
    z, y, x = np.mgrid[:20, :16, :16]
    thin = np.rint(300 * np.sin(z / 4) * np.cos(x / 5) + 10 * y).astype(np.int16)
    for patient, shift in (("anna", 0), ("berta", 50)):
        for index, image in enumerate(thin + np.int16(shift)):
            tags = {"PatientID": patient, "SeriesInstanceUID": f"1.2.{shift + 3}", "SliceThickness": 1.0}
            uid = {"SOPInstanceUID": f"1.2.{shift + 3}.{index}"}
            write_slice(tmp_path / "dicom" / f"{patient}-ct" / f"{index:02d}.dcm", image, z=float(index), **tags, **uid)
        source, out = str(tmp_path / "dicom" / f"{patient}-ct"), tmp_path / patient
        call = ["preprocess", source, "--thickness", "5", "-o", f"{out}.h5", "--workers", "1"]
        assert run(call) == 0
        assert run(["export", f"{out}.h5", "--to", "nifti", "-o", str(out)]) == 0
        (volume,) = out.glob("*.nii.gz")
        (tmp_path / "thick").mkdir(exist_ok=True)
        volume.rename(tmp_path / "thick" / f"{patient}.nii.gz")
    thick, dicom = str(tmp_path / "thick"), str(tmp_path / "dicom")
    assert run(["interpolate", thick, "--spacing", "1", "-o", str(tmp_path / "thin.h5")]) == 0
    (tmp_path / "pairs.csv").write_text("thick,reference\nthick/anna.nii.gz,anna-ct\nberta,berta\n")
    call = ["evaluate", str(tmp_path / "thin.h5"), "--thick", thick, "--reference", dicom, "--workers", "1"]
    capfd.readouterr()
    assert run(call) == 65
    assert "or as --pair-by says" in capfd.readouterr().err
    results = []
    for by in ("patient", str(tmp_path / "pairs.csv")):
        assert run([*call, "--pair-by", by]) == 0
        told = json.loads(capfd.readouterr().out)
        assert str(tmp_path) not in json.dumps(told)
        results.append(told["sets"][0]["interpolation"])
        assert (results[-1]["cases"], results[-1]["slices"]) == (2, 40)
        assert results[-1]["between"]["set"]["mae"]["value"] < 15
    assert results[0] == results[1]
    assert run([*call, "--pair-by", "path"]) == 65  # the folders are called otherwise
